/** A client's initials and colour, derived from its id. */

import { create } from "./dom.ts";

const HUES = 12;

export function avatar(client: string): HTMLElement {
  const created = create("div", "avatar", initials(client));
  created.ariaHidden = "true";
  return created;
}

/** The hue as degrees, one of twelve. */
export function hue(client: string): string {
  let hash = 0;
  for (const character of client) hash = (hash * 31 + (character.codePointAt(0) ?? 0)) >>> 0;
  return `${(hash % HUES) * (360 / HUES)}`;
}

function initials(client: string): string {
  if (/^\d{3,}$/.test(client)) return client.slice(-2);
  return (client.match(/^\P{M}\p{M}*/u)?.[0] ?? "?").toUpperCase();
}
