/** Typed access to index.html's elements, and short ways to make new ones. */

/** @throws if index.html has no such element */
export function find<T extends Element>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (found instanceof type) return found;
  throw new Error(`index.html has no ${type.name} with the id ${id}`);
}

export function create<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = "",
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[K] {
  const created = document.createElement(tag);
  if (className) created.className = className;
  created.append(...children);
  return created;
}

export function linkButton(text: string, onclick: () => void): HTMLButtonElement {
  const created = create("button", "link", text);
  created.onclick = onclick;
  return created;
}

/** Whether a key belongs to an input method. Browsers report the Enter that ends a composition in either of two ways. */
export function isComposing(event: KeyboardEvent): boolean {
  return event.isComposing || event.keyCode === 229;
}
