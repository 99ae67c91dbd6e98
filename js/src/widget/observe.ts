// Observers of elements: their sizes, and whether they are in sight. Each lasts until its signal
// aborts.

interface Size {
  readonly width: number;
  readonly height: number;
}

const sizes = new WeakMap<Element, Size>();

/**
 * Call `changed` when an element's size changes. The browser reports sizes after its own layout;
 * measuring while drawing would force another layout.
 */
export function watchSizes(
  elements: Iterable<Element>,
  changed: () => void,
  signal: AbortSignal,
): void {
  const observer = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) sizes.set(target, contentRect);
    changed();
  });
  for (const each of elements) observer.observe(each);
  signal.addEventListener("abort", () => observer.disconnect());
}

/** An element's size as the browser last reported it. */
export function sizeOf(element: Element): Size {
  return sizes.get(element) ?? element.getBoundingClientRect();
}

/** Call `changed` when an element comes into sight or goes out of it, and once at the start. */
export function watchVisibility(
  element: Element,
  changed: (visible: boolean) => void,
  signal: AbortSignal,
): void {
  const observer = new IntersectionObserver((entries) => {
    changed(entries[entries.length - 1].isIntersecting);
  });
  observer.observe(element);
  signal.addEventListener("abort", () => observer.disconnect());
}
