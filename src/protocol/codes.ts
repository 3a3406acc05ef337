/** Error codes and close codes. The tables in README.md show both; a test compares them with these. */

/** The `code` of an `error` event, and its `message`. */
export const ERROR_MESSAGES = {
  "not-json": "A message is a JSON object in a text frame.",
  "unknown-type": 'The type is "message" or "ping".',
  "no-text": "A message has a text, which is a string.",
  "bad-seq": "A seq is a whole number from 1 to 9007199254740991.",
  "message-too-big": "It is bigger than this server takes: send less at a time.",
  "rate-limited": "That is too much at once: send it again after retryAfterSeconds.",
  "out-of-order": "An earlier seq was refused: send that one again first, or go on without it with skip.",
  unavailable: "It could not be kept just now: send it again in a moment.",
  unconfirmed:
    "It is not known whether it was kept: it may still be said. Sent again with its seq, it is said once.",
} as const;

export type ErrorCode = keyof typeof ERROR_MESSAGES;

/** Why the server closes a connection: code and reason. */
export const CLOSE_CODES = {
  tooBig: [1009, "The message is too big."],
  restarting: [1012, "Stopping, perhaps to start again: please come back in a moment."],
  undelivered: [1012, "A message could not be delivered: please come back and resume."],
  expired: [1008, "The token has expired: ask for a new one."],
  abuse: [1008, "Sending far too much: please slow down."],
  failed: [1011, "Something went wrong on our side: please come back."],
  tooSlow: [1013, "Reading too slowly: please come back and resume."],
  replaced: [4001, "Replaced by a newer connection of this session."],
} as const;

export type CloseReason = keyof typeof CLOSE_CODES;
