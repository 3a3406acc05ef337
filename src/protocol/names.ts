/** Client ids, rooms and sessions: what may be one, and its one spelling. */

const MAX_NAME_CHARACTERS = 64;
/** No mark without a letter to sit on; no `.` and `..`, which browsers take out of an address. */
const NAME = new RegExp(
  `^(?!\\.{1,2}$)[\\p{L}\\p{N}_.-][\\p{L}\\p{M}\\p{N}_.-]{0,${MAX_NAME_CHARACTERS - 1}}$`,
  "u",
);
/** NFC makes one character of up to four; of those outside the basic plane, two UTF-16 units each, of up to three. */
const MAX_UNNORMALIZED_LENGTH = 6 * MAX_NAME_CHARACTERS;
/** More marks in a row than any text needs (UAX #15, Stream-Safe Text Format): to sort them takes quadratic time. */
const TOO_MANY_MARKS = /\p{M}{31}/u;
/** Invisible by the Unicode standard (UAX #44), though some of these are letters or marks; and three that are drawn blank. */
const INVISIBLE = /[\p{Default_Ignorable_Code_Point}\u{13441}\u{13442}\u{16FE4}]/u;

/** A name in its one spelling (Unicode's NFC), already percent-decoded; or the sentence that says what is none. */
export function parseName(
  what: "client id" | "room" | "session",
  text: string,
): { readonly name: string } | { readonly detail: string } {
  if (text.length <= MAX_UNNORMALIZED_LENGTH && !TOO_MANY_MARKS.test(text)) {
    const name = text.normalize("NFC");
    if (NAME.test(name) && !INVISIBLE.test(name)) return { name };
  }
  return {
    detail: `A ${what} is 1 to ${MAX_NAME_CHARACTERS} letters, digits, "_", "-" or ".": choose another one.`,
  };
}
