/** A record of the log that all nodes follow. */

import type { AppendResult, Removal } from "../message.ts";
import type { Ban } from "../store.ts";

/** What was written as one: a batch of a node, a removal, a ban, or the removal of a node. */
export interface LogRecord {
  readonly id: string;
  /** The id of the record before it. */
  readonly prev: string;
  /** The node that wrote it, and the batch's number. */
  readonly node: string;
  readonly batch: number;
  readonly parts: readonly RecordPart[];
}

export type RecordPart =
  /** The number of connections that a client has in a room on the record's node. */
  | {
      readonly kind: "presence";
      readonly room: string;
      readonly client: string;
      readonly connections: number;
    }
  | {
      readonly kind: "session";
      readonly client: string;
      readonly session: string;
      readonly fencingToken: number;
    }
  /** The result of the batch's next message. */
  | { readonly kind: "result"; readonly result: AppendResult }
  | { readonly kind: "removal"; readonly removal: Removal }
  | { readonly kind: "ban"; readonly ban: Ban }
  | { readonly kind: "nodeRemoved"; readonly node: string };
