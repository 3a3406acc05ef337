/** Error codes, close codes and rejection codes. The tables in README.md, here and in http/, are compared with these by tests. */

/** The `code` of an `error` event, and its `message`; over HTTP, the `code` and the `detail` of a problem. */
export const ERROR_MESSAGES = {
  "not-json": "A message must be a JSON object.",
  "unknown-type": 'The type must be "message" or "ping".',
  "no-text": "A message must have either a text or data, which is a string.",
  "bad-data": "The data must be base64 (RFC 4648, section 4), without line breaks.",
  "bad-seq": "A seq must be a whole number from 1 to 9007199254740991.",
  "message-too-big": "The message is too large for this server.",
  "read-only": "You may read this room, but not write to it.",
  "rate-limited": "Rate limit exceeded. Retry after retryAfterSeconds.",
  "out-of-order": "An earlier seq was rejected. Resend that one first, or skip it with skip.",
  unavailable: "The message cannot be stored right now. Resend it in a moment.",
  unconfirmed:
    "Not confirmed: it may or may not have been stored. Resent with the same session and seq, it is not duplicated.",
} as const;

export type ErrorCode = keyof typeof ERROR_MESSAGES;

/** Why the server closes a connection: code and reason. */
export const CLOSE_CODES = {
  tooBig: [1009, "The message is too large."],
  restarting: [1012, "The server is stopping, perhaps to restart. Reconnect in a moment."],
  undelivered: [1012, "A message could not be delivered. Reconnect and resume."],
  abuse: [1008, "Far above the rate limit. Slow down."],
  failed: [1011, "Internal error. Reconnect."],
  tooSlow: [1013, "Reading too slowly. Reconnect and resume."],
  historyUnavailable: [1013, "The history is unavailable. Reconnect and resume."],
  replaced: [4001, "Replaced by a newer connection of this session."],
  banned: [4003, "Disconnected by a moderator."],
  expired: [4002, "The token has expired. Reconnect with a new one."],
  revoked: [4002, "The token is no longer valid. Reconnect with a new one."],
} as const;

export type CloseReason = keyof typeof CLOSE_CODES;

/** Why an HTTP request is rejected, the `Hubbub-Code` header and the `code` of a problem, and its status. */
export const REJECTION_STATUS = {
  "bad-data": 400,
  "bad-history": 400,
  "bad-id": 400,
  "bad-limit": 400,
  "bad-name": 400,
  "bad-seconds": 400,
  "bad-seq": 400,
  "bad-token": 401,
  banned: 403,
  "connection-rate": 429,
  "cut-off": 400,
  full: 503,
  host: 403,
  "internal-error": 500,
  "message-too-big": 413,
  "no-such-message": 404,
  "no-such-method": 405,
  "no-text": 400,
  "no-token": 401,
  "not-for-client": 403,
  "not-for-metrics": 403,
  "not-for-room": 403,
  "not-found": 404,
  "not-json": 400,
  "not-listed": 403,
  "not-local": 403,
  "not-moderator": 403,
  "not-utf8": 400,
  "not-websocket": 426,
  origin: 403,
  "out-of-order": 503,
  "rate-limited": 429,
  "read-only": 403,
  "token-expired": 401,
  "too-many-from-address": 429,
  unavailable: 503,
  unconfirmed: 503,
  "unknown-type": 400,
  "unsupported-type": 415,
} as const;

export type RejectionCode = keyof typeof REJECTION_STATUS;
