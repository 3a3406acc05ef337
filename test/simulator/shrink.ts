/** Finds the shortest history that still fails in the same way: delta debugging (Zeller and Hildebrandt, 2002). */

import type { Action, Plan } from "./faults.ts";
import { simulate } from "./simulation.ts";

/** What is left of a plan, and how it fails. */
interface Shrunk {
  readonly plan: Plan;
  readonly failure: string;
  readonly runs: number;
}

/** @param maxMs how long to search, in real time */
export function shrink(plan: Plan, seed: number, failure: string, maxMs = 30_000): Shrunk {
  const endMs = performance.now() + maxMs;
  let best: Shrunk = { plan, failure, runs: 0 };
  let runs = 0;
  const tryPlan = (candidate: Plan): boolean => {
    if (performance.now() > endMs) return false;
    runs++;
    const outcome = simulate(candidate, seed);
    if (outcome.failure === undefined || kindOf(outcome.failure) !== kindOf(failure)) return false;
    best = { plan: candidate, failure: outcome.failure, runs };
    return true;
  };
  const tryActions = (actions: readonly Action[]) => tryPlan({ ...best.plan, actions });

  // What happens after the failure does not matter, unless it is found only at the end.
  const failedMs = Number(/^[\d.]+/.exec(failure)?.[0]) * 1000;
  tryActions(plan.actions.filter(({ atMs }) => atMs <= failedMs));
  const isSend = ({ kind }: Action) => kind === "send";
  for (let before = Infinity; sizeOf(best.plan) < before && performance.now() < endMs;) {
    before = sizeOf(best.plan);
    reduce(isSend, () => best.plan.actions, tryActions);
    reduce(
      (action) => !isSend(action),
      () => best.plan.actions,
      tryActions,
    );
    for (let user = best.plan.settings.users.length - 1; user >= 0; user--) tryPlan(without(user, best.plan));
  }
  const lastMs = best.plan.actions.at(-1)?.atMs ?? 0;
  const { settings } = best.plan;
  tryPlan({ ...best.plan, settings: { ...settings, seconds: Math.ceil(lastMs / 1000) + 1 } });
  return { ...best, runs };
}

function sizeOf({ settings, actions }: Plan): number {
  return settings.users.length + actions.length;
}

function without(user: number, { settings, actions }: Plan): Plan {
  const users = settings.users.filter((_, index) => index !== user);
  const others = actions.filter((action) => action.user !== user);
  return {
    settings: { ...settings, users },
    actions: others.map((action) => (action.user > user ? { ...action, user: action.user - 1 } : action)),
  };
}

/** Removes ever smaller parts of the actions that `isCandidate` selects. */
function reduce(
  isCandidate: (action: Action) => boolean,
  current: () => readonly Action[],
  tryActions: (actions: readonly Action[]) => boolean,
): void {
  for (
    let size = Math.ceil(current().filter(isCandidate).length / 2);
    size >= 1;
    size = Math.floor(size / 2)
  ) {
    for (let from = 0; ;) {
      const part = new Set(
        current()
          .filter(isCandidate)
          .slice(from, from + size),
      );
      if (part.size === 0) break;
      if (!tryActions(current().filter((action) => !part.has(action)))) from += size;
    }
  }
}

/** Failures that differ only in times, ids and names are the same. */
function kindOf(failure: string): string {
  return failure
    .replace(/^[\d.]+ s: /, "")
    .replace(/"[^"]*"|[\d.-]+|\b[jt]\d*\b|\b(tea|milk)\b|,/g, "")
    .replace(/\s+/g, " ");
}
