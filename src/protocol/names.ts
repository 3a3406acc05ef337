/** Client ids, room names and session names: which are valid, and their normal form. */

const MAX_NAME_CHARACTERS = 64;
/** Starts the client id of a guest, and no other, as names cannot contain it. */
export const GUEST_PREFIX = "~";
/** The first character is not a combining mark; `.` and `..` are excluded, because browsers remove them from a path. */
const NAME = new RegExp(
  `^(?!\\.{1,2}$)[\\p{L}\\p{N}_.-][\\p{L}\\p{M}\\p{N}_.-]{0,${MAX_NAME_CHARACTERS - 1}}$`,
  "u",
);
/** Checked before normalizing: NFC composes at most four characters into one, or three outside the BMP, of two UTF-16 units each. */
const MAX_UNNORMALIZED_LENGTH = 6 * MAX_NAME_CHARACTERS;
/** More than any text needs (UAX #15, Stream-Safe Text Format); normalizing them takes quadratic time. */
const TOO_MANY_MARKS = /\p{M}{31}/u;
/** Invisible characters (UAX #44), some of which are letters or marks, and three that are rendered blank. */
const INVISIBLE = /[\p{Default_Ignorable_Code_Point}\u{13441}\u{13442}\u{16FE4}]/u;

/** @param text percent-decoded @returns the name in its normal form (Unicode's NFC), or a sentence that says why it is invalid */
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
