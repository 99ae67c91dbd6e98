// The legend above the text: what its colour means, to be chosen, and the scale with its numbers.

import { el, setText, setTitle } from "../../widget/dom";
import { KINDS } from "../columns";
import type { Colouring, Scale } from "./text-colour";

export class ColourSwitch {
  readonly node: HTMLElement;
  readonly #select = el("select", "oj-button oj-colour", {});
  readonly #low = el("span", "");
  readonly #high = el("span", "");
  readonly #ramp = el("span", "oj-ramp oj-heat-ramp", { "aria-hidden": "true" });
  readonly #scale: HTMLElement;
  readonly #kinds = el("span", "oj-legend-row");
  readonly #options = new Map<string, HTMLOptionElement>();

  /** `chosen` is called with the key of the colouring that the user chose. */
  constructor(chosen: (key: string) => void, signal: AbortSignal) {
    this.#select.addEventListener("change", () => chosen(this.#select.value), { signal });
    const label = el("label", "oj-legend-item", {}, "Colour:", this.#select);
    this.#scale = el("span", "oj-legend-item oj-scale", {}, this.#low, this.#ramp, this.#high);
    this.node = el("span", "oj-legend-row", {}, label, this.#scale, this.#kinds);
  }

  /** Show the colourings, and the scale of the one in use; `waiting` if its numbers are to come. */
  draw(all: readonly Colouring[], used: Colouring, scale: Scale | null, waiting: boolean): void {
    for (const { key, name, means, blocked } of all) {
      let option = this.#options.get(key);
      if (!option) {
        option = el("option", "", { value: key });
        this.#options.set(key, option);
        this.#select.append(option);
      }
      setText(option, name);
      const disabled = blocked !== "" && key !== used.key;
      if (option.disabled !== disabled) option.disabled = disabled;
      setTitle(option, blocked || means);
    }
    if (this.#select.value !== used.key) this.#select.value = used.key;
    const blocked = all.filter((each) => each.blocked).map(why);
    setTitle(this.#select, [used.means, ...blocked].join("\n"));
    this.#drawScale(used, scale, waiting);
  }

  #drawScale(used: Colouring, scale: Scale | null, waiting: boolean): void {
    const names = (used.kinds ?? []).map((kind) => KINDS[kind]);
    if (names.length !== this.#kinds.childElementCount)
      this.#kinds.replaceChildren(...names.map(kindItem));
    this.#ramp.hidden = !scale;
    this.#scale.hidden = used.key === "none" || names.length > 0;
    if (!scale) {
      setText(this.#low, used.blocked || (waiting ? "Python computes it…" : ""));
      setText(this.#high, "");
      this.#scale.title = "";
      return;
    }
    const { low, high, most } = scale;
    const fromLow = used.from === "low";
    const clipped = most > high;
    setText(this.#low, `${used.format(low)}${fromLow ? " (p1)" : ""}`);
    setText(
      this.#high,
      `${clipped ? "≥\u202f" : ""}${used.format(high)}${clipped ? " (p99)" : ""}`,
    );
    const ends = [
      fromLow ? `The scale begins at the 1st percentile (p1), ${used.format(low)}.` : "",
      clipped ? `It ends at the 99th percentile (p99), ${used.format(high)};` : "",
      clipped ? `the highest is ${used.format(most)}.` : "",
    ];
    this.#scale.title = ends.filter(Boolean).join(" ");
  }
}

const why = ({ name, blocked }: Colouring): string => `${name}: ${blocked}`;

/** A kind of token and its colour, as in the text. */
const kindItem = (name: string): HTMLElement =>
  el("span", "oj-legend-item oj-kind", { "data-oj-kind": name }, name);
