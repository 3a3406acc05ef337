import type { KeySource } from "../auth/key-files.ts";

/** What the operator can set for the HTTP server. The command line produces it. */
export interface ServerOptions {
  readonly host: string;
  /** 0 picks a free port. */
  readonly port: number;
  /** The address that clients use, if it differs from the one the server listens on. */
  readonly publicUrl: URL | undefined;
  /** Take client addresses from `X-Forwarded-For`. */
  readonly trustProxy: boolean;
  /** PEM, like {@link tlsKey}. */
  readonly tlsCert: string | undefined;
  readonly tlsKey: string | undefined;
  /** Further host names that programs use. */
  readonly allowHost: readonly string[];
  /** Other sites whose pages may connect. */
  readonly allowOrigin: readonly string[];
  /** `GET /rooms` lists all rooms. */
  readonly listRooms: boolean;
  /** `/metrics` answers anyone. */
  readonly openMetrics: boolean;
  /** Keys that verify tokens; without any, here and below, no tokens are required. */
  readonly secretFile: readonly KeySource[];
  readonly publicKeyFile: readonly KeySource[];
  /** Rooms that clients without a token may enter, if tokens are required: see auth/room-patterns.ts. */
  readonly allowGuests: readonly string[];
  /** What they may do there; `write` includes `read`. */
  readonly guests: "read" | "write";
  /** Messages per room replayed to newcomers. */
  readonly history: number;
  readonly maxMessageBytes: number;
  /** Messages per second and connection. Here and below, 0 means unlimited. */
  readonly messageRate: number;
  readonly messageBurst: number;
  /** Undefined: as many as the file descriptor limit allows. */
  readonly maxConnections: number | undefined;
  readonly maxConnectionsPerAddress: number;
  /** New connections per second and address. */
  readonly connectionRate: number;
  readonly pingSeconds: number;
  /** How long messages of a busy room wait to share a write. */
  readonly flushMs: number;
  readonly drainSeconds: number;
}
