/** Mentions in a text: `@name` of a client in the room, or `@all`. */

/** Not within an e-mail address. */
const CANDIDATE = /(?<![\w@.-])@([\p{L}\p{N}_.-][\p{L}\p{M}\p{N}_.-]{0,63})/gu;
/** What may follow a name without a blank: punctuation that names can have, and scripts written without blanks. */
const FOLLOWS_NAME = /^[._-]|^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u;
const ALL = "all";

interface Mention {
  /** Where it starts in the text, with the `@`. */
  readonly index: number;
  readonly length: number;
  readonly isOfMe: boolean;
}

export type FindMentions = (text: string) => Iterable<Mention>;

/** @param isPresent whether a client of that name, in any case, is in the room */
export function mentionFinder(isPresent: (name: string) => boolean, me: () => string): FindMentions {
  return function* (text) {
    for (const { 1: candidate = "", index } of text.matchAll(CANDIDATE)) {
      for (let end = candidate.length; end > 0; end--) {
        if (end < candidate.length && !FOLLOWS_NAME.test(candidate.slice(end))) continue;
        const name = foldName(candidate.slice(0, end));
        const isOfMe = name === ALL || name === foldName(me());
        if (!isOfMe && !isPresent(name)) continue;
        yield { index, length: end + 1, isOfMe };
        break;
      }
    }
  };
}

/** People write a name in any case. */
export function foldName(name: string): string {
  return name.normalize("NFC").toLowerCase();
}
