// The generated text as elements: paragraphs, in them chunks, in them tokens.
//
// The text comes from the model, so it is inserted only as text. Text whose tokens are no longer
// known stands before them. Each paragraph is a block, so that for a new token the page lays out
// only the last one. A chunk is dimmed as a whole: moving the playhead changes only the tokens of
// the chunks where it was and is, and a jump only the chunks in sight at once. A jump also shows only
// its paragraph, and those around it soon after: a page of paragraphs at once takes long.

import { el } from "../../widget/dom";
import { same } from "../../widget/same";
import { KINDS } from "../columns";
import { KEPT_STEPS } from "../limits";
import { Pieces } from "../pieces";
import { firstWhere } from "../search";
import type { RunState } from "../state";

/** Tokens in a chunk, at most. */
export const CHUNK = 64;

const DIMMED = "oj-future";
/** Tokens that are dimmed at once, about: those that are in sight of the playhead. */
const AT_ONCE = 192;
/** A jump shows so many paragraphs on each side one after another; others are out of the page's reach. */
const SHOWN_SOON = 24;

/** Above and below a token that is revealed so much stays in sight: a line, in CSS pixels. */
const BESIDE = 23;

/** Characters on a line, about. */
const LINE = 70;

/** A text of these kinds alone has no names in it. */
const UNNAMED = ["template", "answer", undefined];

interface Chunk {
  node: HTMLElement;
  steps: number[];
  /** How many of its tokens are before the dimmed ones, of how many when that was set. */
  bright: number;
  of: number;
}

export class TextLog {
  readonly node = el("div", "oj-log", { role: "log", tabindex: "0" });
  /** The text before the first known token, and after the last. */
  readonly #lead = document.createTextNode("");
  readonly #rest = document.createTextNode("");
  /** The last paragraph. Text without a token yet, and the elements `atEnd`, stand at its end. */
  #paragraph: HTMLElement | null = null;
  #chunks: Chunk[] = [];
  /** The steps that have a token, ascending. */
  steps: number[] = [];
  /** How often all tokens were made anew. */
  generation = 0;
  readonly #tokens = new Map<number, HTMLElement>();
  readonly #stepOf = new WeakMap<Element, number>();
  /** The steps whose tokens have a class, by class. */
  readonly #marked = new Map<string, ReadonlySet<number>>();
  readonly #levels = new Map<number, number>();
  /** What `segment` was called with last, for which tokens. */
  #segmented: unknown[] = [];
  /** The first step without a token element. */
  #next = 0;
  #epoch = -1;
  /** What `dim` was called with last, and what dims those out of sight. */
  #wanted = "";
  #after: number | null = null;
  readonly #dimming = new Pieces();
  /** Shows the paragraphs around a jump. */
  readonly #showing = new Pieces();
  /** Whether the end of the text is in sight; then it stays in sight. */
  following = true;
  /** When a reader last turned the wheel over it. */
  scrolledAt = Number.NEGATIVE_INFINITY;

  /** `atEnd` stands after the text: the caret, and what is said while there is no text. */
  constructor(
    private readonly state: RunState,
    private readonly atEnd: readonly Node[],
    signal: AbortSignal,
  ) {
    this.node.setAttribute("aria-label", "Generated text");
    this.#beginParagraph();
    let height = 0;
    const scrolled = () => {
      const { scrollHeight, scrollTop, clientHeight } = this.node;
      const atEnd = scrollHeight - scrollTop - clientHeight < 24;
      // The page also scrolls when the heights of paragraphs become known, which were out of sight.
      if (atEnd || scrollHeight === height) this.following = atEnd;
      height = scrollHeight;
    };
    this.node.addEventListener("scroll", scrolled, { signal });
    const turned = () => {
      this.scrolledAt = performance.now();
    };
    this.node.addEventListener("wheel", turned, { signal, passive: true });
    signal.addEventListener("abort", () => {
      this.#dimming.end();
      this.#showing.end();
    });
  }

  /** Add the tokens that arrived since the last call. */
  grow(): void {
    this.#dimming.defer();
    this.#showing.defer();
    const { state } = this;
    const { steps } = state;
    if (state.textEpoch !== this.#epoch || this.#tokens.size > 2 * KEPT_STEPS) this.#restart();
    for (let step = this.#next; step < steps.end; step += 1) {
      const text = state.textOf(step);
      if (text) this.#add(step, text);
    }
    this.#next = Math.max(this.#next, steps.end);
    const end = steps.length ? state.textEndOf(steps.end - 1) : state.textStart;
    const rest = state.text.slice(Math.max(0, end - state.textStart));
    if (this.#rest.data !== rest) this.#rest.data = rest;
  }

  /** Dim the tokens after a step, null dims none: near that step at once, elsewhere soon after. */
  dim(after: number | null): void {
    const wanted = `${after} ${this.steps.length} ${this.generation}`;
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    this.#after = after;
    if (this.#dimSome()) this.#dimming.begin(this.#dimSome);
  }

  /** Dim the nearest chunks that need it, not all at once; returns whether there may be others. */
  readonly #dimSome = (): boolean => {
    const chunks = this.#chunks;
    const at = this.#after === null ? chunks.length : this.#chunkAfter(this.#after);
    let left = AT_ONCE;
    for (let away = 0; left > 0 && away <= chunks.length; away += 1) {
      for (const chunk of [chunks[at + away], chunks[at - away]])
        if (chunk && this.#dimChunk(chunk)) left -= chunk.steps.length;
    }
    return left <= 0;
  };

  /** Returns whether there was anything to change. */
  #dimChunk(chunk: Chunk): boolean {
    const after = this.#after;
    const { steps, node } = chunk;
    const bright = after === null ? steps.length : countUpTo(steps, after);
    if (bright === chunk.bright && steps.length === chunk.of) return false;
    const isPart = bright > 0 && bright < steps.length;
    const wasPart = chunk.bright > 0 && chunk.bright < chunk.of;
    node.classList.toggle(DIMMED, bright === 0);
    if (isPart || wasPart) {
      for (const [i, step] of steps.entries()) {
        this.#tokens.get(step)!.classList.toggle(DIMMED, isPart && i >= bright);
      }
    }
    [chunk.bright, chunk.of] = [bright, steps.length];
    return true;
  }

  /** The index of the first chunk that ends after a step. */
  #chunkAfter(step: number): number {
    return firstWhere(this.#chunks.length, (i) => this.#chunks[i].steps.at(-1)! > step);
  }

  /** Set a class on the tokens of `steps`, and on no others. */
  mark(name: string, steps: readonly number[]): void {
    const before = this.#marked.get(name) ?? new Set();
    if (!steps.length && !before.size) return;
    const now = new Set(steps);
    for (const step of before) if (!now.has(step)) this.#tokens.get(step)?.classList.remove(name);
    for (const step of now) if (!before.has(step)) this.#tokens.get(step)?.classList.add(name);
    this.#marked.set(name, now);
  }

  /**
   * Say what kind each token is, by its code in KINDS; null if it is not known. Where thinking or a
   * tool call begins or ends, its name stands in the text.
   */
  segment(kinds: ArrayLike<number> | null): void {
    const { steps } = this;
    const wanted = [kinds, steps.length, this.generation];
    if (!kinds || same(wanted, this.#segmented)) return;
    this.#segmented = wanted;
    const parted = steps.some((step) => !UNNAMED.includes(KINDS[kinds[step]]));
    let before = "template";
    for (const step of steps) {
      const kind = KINDS[kinds[step]];
      if (!kind) continue;
      const { dataset } = this.#tokens.get(step)!;
      dataset.ojKind = kind;
      if (!parted || kind === "template" || kind === before) continue;
      dataset.ojBegins = before = kind;
    }
  }

  /** Set how strong the colour behind a token is, 0 to 100. */
  colour(step: number, level: number): void {
    if ((this.#levels.get(step) ?? 0) === level) return;
    this.#levels.set(step, level);
    const { style } = this.#tokens.get(step)!;
    if (level) style.setProperty("--oj-heat", String(level));
    else style.removeProperty("--oj-heat");
  }

  /** The step of the token that an event's target lies in. */
  stepAt(target: EventTarget | Node | null): number | null {
    const node = target instanceof Element ? target : (target as Node | null)?.parentElement;
    const token = node?.closest?.(".oj-token");
    return (token && this.#stepOf.get(token)) ?? null;
  }

  /** The steps whose tokens lie in a range of the document, at least in part. */
  stepsIn(range: Range): number[] {
    const { steps } = this;
    const text = (i: number) => this.#tokens.get(steps[i])!.firstChild as Text;
    const first = firstWhere(steps.length, (i) => range.comparePoint(text(i), text(i).length) >= 0);
    const end = firstWhere(steps.length, (i) => range.comparePoint(text(i), 0) > 0);
    const found = steps.slice(first, end);
    // A token that the range only touches is not in it.
    const { startContainer, startOffset, endContainer, endOffset } = range;
    const atItsEnd = startOffset === (startContainer as Text).length;
    if (found.length && atItsEnd && this.stepAt(startContainer) === found[0]) found.shift();
    if (found.length && !endOffset && this.stepAt(endContainer) === found.at(-1)) found.pop();
    return found;
  }

  toEnd(): void {
    this.following = true;
    this.node.scrollTop = this.node.scrollHeight;
  }

  /**
   * Scroll the text, and nothing else on the page, until a token is in sight. For a step without
   * text it is the token before.
   */
  reveal(step: number): void {
    let token = this.#tokens.get(step);
    for (let at = step; !token && at > this.state.firstToken; ) token = this.#tokens.get(--at);
    if (!token) return;
    if (!token.checkVisibility({ contentVisibilityAuto: true }))
      this.#showFrom(token.closest(".oj-paragraph")!);
    const [box, view] = [token.getBoundingClientRect(), this.node.getBoundingClientRect()];
    const [above, below] = [view.top + BESIDE - box.top, box.bottom + BESIDE - view.bottom];
    if (above > 0) this.node.scrollTop -= above;
    else if (below > 0) this.node.scrollTop += below;
  }

  /** Show one that was out of sight, after the move's frames those beside it, then further ones. */
  #showFrom(paragraph: Element): void {
    const all = [...this.node.children] as HTMLElement[];
    const at = all.indexOf(paragraph as HTMLElement);
    let shown = 0;
    const show = () => {
      all.forEach(({ style }, n) => {
        const away = Math.abs(n - at);
        style.contentVisibility = away > shown && away <= SHOWN_SOON ? "hidden" : "";
      });
      shown += 1;
      return shown <= SHOWN_SOON;
    };
    show();
    this.#showing.begin(show);
  }

  #add(step: number, text: string): void {
    let chunk = this.#chunks.at(-1);
    if (!chunk || chunk.steps.length >= CHUNK || chunk.node.parentElement !== this.#paragraph) {
      chunk = { node: el("span", "oj-chunk"), steps: [], bright: 0, of: 0 };
      this.#chunks.push(chunk);
      this.#rest.before(chunk.node);
    }
    const token = el("span", "oj-token", {}, text);
    this.#tokens.set(step, token);
    this.#stepOf.set(token, step);
    this.steps.push(step);
    chunk.steps.push(step);
    chunk.node.append(token);
    if (!text.endsWith("\n")) return;
    // The page guesses heights out of sight: by too low ones it lays out too many after a jump.
    const { style, textContent } = this.#paragraph!;
    const lines = Math.ceil(textContent!.trim().length / LINE) || 1;
    style.containIntrinsicBlockSize = `auto ${1.6 * lines}em`;
    this.#beginParagraph();
  }

  #restart(): void {
    const { state } = this;
    this.node.replaceChildren();
    this.#beginParagraph();
    this.#rest.before(this.#lead);
    this.#tokens.clear();
    this.steps = [];
    this.#marked.clear();
    this.#levels.clear();
    this.#chunks = [];
    this.#epoch = state.textEpoch;
    this.generation += 1;
    // The text of the oldest step begins where the one before it ended, which is dropped.
    this.#next = state.steps.first > 0 ? state.steps.first + 1 : 0;
    const lead = this.#next ? state.textEndOf(state.steps.first) : state.prefilled;
    this.#lead.data = state.text.slice(0, Math.max(0, (lead || 0) - state.textStart));
  }

  #beginParagraph(): void {
    this.#paragraph = el("div", "oj-paragraph", {}, this.#rest, ...this.atEnd);
    this.node.append(this.#paragraph);
  }
}

/** How many of the ascending `steps` are at most `last`. */
function countUpTo(steps: readonly number[], last: number): number {
  return firstWhere(steps.length, (i) => steps[i] > last);
}
