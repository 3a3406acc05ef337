/** Who may come in, decided before the upgrade: header values and names in; a refusal, or the checked value, out. */

import { isIP } from "node:net";
import { SUBPROTOCOL } from "./protocol.ts";
import type { Wish } from "./visitor.ts";

/** What a client is told instead of being let in: an HTTP status, and one sentence that says what to do. */
export interface Refusal {
  readonly status: 400 | 403;
  readonly sentence: string;
}

const DEFAULT_ROOM = "lobby";
const MAX_NAME_CHARACTERS = 64;
/** No mark without a letter to sit on; no `.` and `..`, which browsers take out of an address. */
const NAME = new RegExp(
  `^(?!\\.{1,2}$)[\\p{L}\\p{N}_.-][\\p{L}\\p{M}\\p{N}_.-]{0,${MAX_NAME_CHARACTERS - 1}}$`,
  "u",
);
/** Invisible by the Unicode standard (UAX #44), though some of these count as letters or marks. */
const INVISIBLE = /\p{Default_Ignorable_Code_Point}/u;

/** A client id, room or session in its one spelling (NFC), already percent-decoded. */
export function readName(
  what: "client id" | "room" | "session",
  text: string,
): { readonly name: string } | Refusal {
  const name = text.normalize("NFC");
  if (NAME.test(name) && !INVISIBLE.test(name)) return { name };
  return {
    status: 400,
    sentence: `A ${what} is 1 to ${MAX_NAME_CHARACTERS} letters, digits, "_", "-" or ".": choose another one.`,
  };
}

/**
 * What a client asks for: `/ws/ID?room=ROOM&history=N`, and on the JSON wire, asked for as a subprotocol,
 * `&session=SESSION&after=ENTRY_ID`.
 * @param defaultHistory what the JSON wire hears first when it does not say
 */
export function readWish(id: string, url: string, headers: Headers, defaultHistory: number): Wish | Refusal {
  const query = new URLSearchParams(/\?(.*)/.exec(url)?.[1]);
  const isJson = (headers.get("sec-websocket-protocol") ?? "")
    .split(",")
    .some((offer) => offer.trim() === SUBPROTOCOL);
  const client = readName("client id", id);
  if (!("name" in client)) return client;
  const room = readName("room", query.get("room") ?? DEFAULT_ROOM);
  if (!("name" in room)) return room;
  const asked = query.get("history");
  if (asked !== null && !/^\d{1,9}$/.test(asked))
    return {
      status: 400,
      sentence: "history is how many of the latest messages to hear first: a whole number.",
    };
  const wish = { client: client.name, room: room.name };
  if (!isJson) return { ...wish, wire: "text", history: Number(asked ?? 0) };

  const session = query.has("session") ? readName("session", query.get("session") ?? "") : undefined;
  if (session && !("name" in session)) return session;
  const after = query.get("after");
  return {
    ...wish,
    wire: "json",
    history: Number(asked ?? defaultHistory),
    ...(session ? { session: session.name } : {}),
    ...(after === null ? {} : { after }),
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
