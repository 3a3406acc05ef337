/** A client's initials and colour, derived from its id. */

import { create } from "./dom.ts";

const HUES = 12;
/** Found by trying: at most three of twenty common names share a hue. */
const SEED = 73_384;
const graphemes = new Intl.Segmenter();

export function avatar(client: string): HTMLElement {
  const created = create("div", "avatar", initials(client));
  created.ariaHidden = "true";
  return created;
}

/** The hue as degrees, one of twelve. FNV-1a with MurmurHash3's last step, without which short names share few hues. */
export function hue(client: string): string {
  let hash = SEED;
  for (const character of client) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  hash = (hash ^ (hash >>> 16)) >>> 0;
  return `${(hash % HUES) * (360 / HUES)}`;
}

/** The end of a number, as generated names share their start; otherwise the first letter with all its marks. */
function initials(client: string): string {
  if (/^\d{3,}$/.test(client)) return client.slice(-2);
  const name = client.replace(/^~/, ""); // a guest's
  const [first] = graphemes.segment(name);
  return first?.segment.toUpperCase() ?? "?";
}
