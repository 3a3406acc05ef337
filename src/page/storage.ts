/** What survives a reload: per tab, or for all tabs of this browser. If storage is disabled, nothing does. */

type Scope = "sessionStorage" | "localStorage";

export const TAB: Scope = "sessionStorage";
export const BROWSER: Scope = "localStorage";

export function save(scope: Scope, key: string, value: string): string {
  try {
    window[scope].setItem(`hubbub.${key}`, value);
  } catch {}
  return value;
}

/** @returns "" if nothing is stored */
export function load(scope: Scope, key: string): string {
  try {
    return window[scope].getItem(`hubbub.${key}`) ?? "";
  } catch {
    return "";
  }
}
