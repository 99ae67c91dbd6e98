// Where the experts are spread over machines: of each its residency, and the course of its reads.

import { Bitmap, type Cells } from "../charts/bitmap";
import { Sparkline } from "../charts/sparkline";
import { el, setText } from "../widget/dom";
import type { Theme } from "../widget/theme";
import type { Info, Rank } from "./info";

/** The size of a machine's map in pixels, at most. */
const [COLUMNS, ROWS] = [512, 64];

class Machine {
  readonly #name = el("strong", "");
  readonly #words = el("span", "");
  readonly #map = new Bitmap();
  readonly #reads = new Sparkline();
  readonly node = el("div", "oj-machine", {}, this.#name, this.#reads.node);
  #rank: Rank | undefined;
  #course: number[] = [];
  /** The expert of each of the map's cells, at layer * experts + expert; -1 for none. */
  #own: number[] = [];

  constructor() {
    this.#reads.node.title = "The median read of each token";
    this.node.append(el("div", "oj-machine-map", {}, this.#map.node), this.#words);
  }

  draw(rank: Rank, past: number | null, theme: Theme): void {
    setText(this.#name, rank.name);
    setText(this.#words, rank.words);
    if (rank !== this.#rank) this.#course = rank.ms.map((ms) => ms ?? Number.NaN);
    this.#rank = rank;
    const { length } = this.#course;
    this.#reads.draw(this.#course, past === null ? null : Math.floor(past * length), theme);
  }

  /** Lay its experts of each layer side by side. */
  own(owners: Uint8Array, rank: number, { layers, experts }: Cells): void {
    const rows = Array.from({ length: layers }, (_, layer) =>
      Array.from({ length: experts }, (_, expert) => layer * experts + expert).filter(
        (index) => owners[index] === rank,
      ),
    );
    const wide = Math.max(1, ...rows.map((row) => row.length));
    this.#own = rows.flatMap((row) => Array.from({ length: wide }, (_, n) => row[n] ?? -1));
  }

  drawMap(all: Cells): void {
    const levels = Uint8Array.from(this.#own, (index) => all.levels[index] ?? 0);
    const experts = levels.length / all.layers;
    if (experts) this.#map.paint({ ...all, experts, levels }, COLUMNS, ROWS);
  }
}

export class Machines {
  readonly node = el("div", "oj-machines", { role: "group", "aria-label": "Machines" });
  #machines: Machine[] = [];
  #owners: string | undefined;

  /** `past` is the part of the decoded tokens before the playhead's; null while it is at none. */
  draw({ ranks = [], owners = "" }: Info, past: number | null, all: Cells, theme: Theme): void {
    this.node.hidden = !ranks.length;
    if (this.#machines.length !== ranks.length) {
      this.#machines = ranks.map(() => new Machine());
      this.node.replaceChildren(...this.#machines.map(({ node }) => node));
      this.#owners = undefined;
    }
    const changed = owners !== this.#owners;
    const owner = changed && Uint8Array.from(atob(owners), (each) => each.charCodeAt(0));
    this.#owners = owners;
    this.#machines.forEach((machine, rank) => {
      if (owner) machine.own(owner, rank, all);
      machine.draw(ranks[rank], past, theme);
      machine.drawMap(all);
    });
  }
}
