/** Randomness. The server has one source, passed down from where it starts; tests and simulations pass a seeded one. */
export interface Random {
  /** At least 0 and below 1. */
  next(): number;
  /** A name that no other process has: 128 random bits as a UUID. */
  uuid(): string;
}

export const systemRandom: Random = {
  next: () => Math.random(),
  uuid: () => crypto.randomUUID(),
};
