/** Who may come in, decided before the upgrade: header values and names in; a refusal, or the checked value, out. */

import { isIP } from "node:net";

/** What a client is told instead of being let in: an HTTP status, and one sentence that says what to do. */
export interface Refusal {
  readonly status: 400 | 403;
  readonly sentence: string;
}

const MAX_ID_CHARACTERS = 64;
/** No mark without a letter to sit on; no `.` and `..`, which browsers take out of an address. */
const ID = new RegExp(
  `^(?!\\.{1,2}$)[\\p{L}\\p{N}_.-][\\p{L}\\p{M}\\p{N}_.-]{0,${MAX_ID_CHARACTERS - 1}}$`,
  "u",
);
/** Invisible by the Unicode standard (UAX #44), though some of these count as letters or marks. */
const INVISIBLE = /\p{Default_Ignorable_Code_Point}/u;

/** A client id in its one spelling (NFC), from a path segment that is already percent-decoded. */
export function readId(segment: string): { readonly id: string } | Refusal {
  const id = segment.normalize("NFC");
  if (ID.test(id) && !INVISIBLE.test(id)) return { id };
  return {
    status: 400,
    sentence: `A client id is 1 to ${MAX_ID_CHARACTERS} letters, digits, "_", "-" or ".": choose another one.`,
  };
}

/**
 * A page of another site must not talk to a server on this machine or network by way of the user's browser.
 * `Host` has to be a name that no foreign DNS entry can be pointed here with: an address, a loopback name, or
 * this machine's own. `Origin`, which only browsers send, has to be the very site that `Host` names.
 */
export function refuse(headers: Headers, machineName: string): Refusal | undefined {
  const host = headers.get("host") ?? "";
  const name = /^(\[[\da-f:.]+\]|[\w.-]+)(:\d{1,5})?$/i.exec(host)?.[1]?.toLowerCase().replace(/\.$/, "");
  if (name === undefined || !isOurs(name, machineName.toLowerCase()))
    return {
      status: 403,
      sentence:
        "This server does not go by that name: use localhost, or the machine's own name or IP address.",
    };
  const origin = headers.get("origin");
  if (origin !== null && !isSameSite(origin, host))
    return {
      status: 403,
      sentence: "Pages of other sites may not connect here: open this server's own /client.",
    };
  return undefined;
}

function isOurs(name: string, machineName: string): boolean {
  return (
    isIP(name.replace(/^\[|\]$/g, "")) !== 0 ||
    name === "localhost" ||
    name.endsWith(".localhost") ||
    name === machineName ||
    name === `${machineName}.local`
  );
}

/** Compared as URLs, so that `Host: name:443` and `Origin: https://name` are one; never true for an opaque origin. */
function isSameSite(origin: string, host: string): boolean {
  const site = /^https?:/.test(origin) ? URL.parse(origin) : null;
  return site?.origin === origin && site.host === URL.parse(`${site.protocol}//${host}`)?.host;
}
