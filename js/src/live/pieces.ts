// Work out of sight, done piece by piece while nothing else is drawn.

/** Milliseconds of rest before a piece: a user's action is drawn by then. */
const REST_MS = 50;

export class Pieces {
  #piece: (() => boolean) | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Call `piece` until it returns that there is no more. */
  begin(piece: () => boolean): void {
    this.#piece = piece;
    this.defer();
  }

  /** Something was drawn: the next piece waits. */
  defer(): void {
    clearTimeout(this.#timer);
    if (this.#piece) this.#timer = setTimeout(this.#run, REST_MS);
  }

  end(): void {
    this.#piece = null;
    clearTimeout(this.#timer);
  }

  readonly #run = (): void => {
    if (this.#piece?.()) this.defer();
    else this.end();
  };
}
