/** The page in a real Chromium: user input, and what is shown. */

import { hostname } from "node:os";
import { withDeadline } from "./deadline.ts";
import { findProgram } from "./programs.ts";
import type { TestServer } from "./server.ts";

/** The headless shell takes two thirds of the CPU time of a whole Chromium. */
const { path: chromium, skipped } = findProgram(
  "chromium-headless-shell",
  "/usr/lib/chromium/chromium-headless-shell",
  "chromium",
  "chromium-browser",
  "google-chrome",
);
export { skipped };

/** Chromium is slow on a busy machine. */
const DEADLINE_MS = 60_000;
const POLL_MS = 20;

/** This machine's name on a local network. All pages share one browser, and so its rules for host names. */
export const LOCAL_NAME = `${hostname()}.local`.toLowerCase();

interface Theme {
  /** For messages. */
  readonly title?: string;
  readonly dark?: boolean;
  /** A high-contrast theme of the operating system, which replaces the page's colours. */
  readonly forcedColors?: boolean;
}

export interface Look extends Omit<Theme, "title"> {
  readonly width?: number;
  readonly height?: number;
  /** A touch screen without a mouse, as on a phone. */
  readonly touch?: boolean;
  readonly language?: string;
  /**
   * Host name to open the page by, instead of the address. Another name is another origin with a storage of its own,
   * as another person's browser has: `localhost`, or {@link LOCAL_NAME}. It stands for a browser context, which Bun's
   * WebView cannot create: it is connected to its tab, and Chromium allows `Target.createBrowserContext` only to the browser.
   */
  readonly name?: string;
}

/** Every dialog and state of the page must look right in each of these, and in each of {@link THEMES}. */
export const WIDTHS = [1280, 390] as const;

export const THEMES: readonly Theme[] = [
  { title: "light" },
  { title: "dark", dark: true },
  { title: "forced colours", forcedColors: true },
];

/** Unused tabs; reusing one takes a third of the time of opening a new one. */
const free: Page[] = [];

/**
 * Runs before the page's own script. Tests hold the sockets, to deliver frames and to break connections;
 * and no dialog asks whether to leave.
 */
const PRELUDE = `
  window.$ = (id) => document.getElementById(id);
  window.sockets = [];
  window.WebSocket = class extends WebSocket {
    constructor(...args) {
      super(...args);
      sockets.push(this);
    }
  };
  addEventListener("beforeunload", (event) => event.stopImmediatePropagation(), true);
`;

type Permission = "default" | "denied" | "granted";

/** The headless shell always says that notifications are denied. */
const permitting = (state: Permission) =>
  `if (window.Notification) Object.defineProperty(Notification, "permission", { value: "${state}", configurable: true });`;

/** The origins by which pages of a server were opened. An earlier server may have had the same port, and so the same storage. */
const visited = new WeakMap<object, Set<string>>();

/** Opens the page in a tab; disposing it makes the tab available to the next test. */
export async function openPage(
  server: Pick<TestServer, "origin"> & Partial<Pick<TestServer, "next">>,
  path = "/client",
  look: Look = {},
): Promise<Page> {
  const page = free.pop() ?? new Page();
  const node = server.next?.() ?? server;
  const origin = node.origin.replace("127.0.0.1", look.name ?? "127.0.0.1");
  const origins = visited.getOrInsertComputed(node, () => new Set());
  await page.open(origin + path, look, !origins.has(origin));
  origins.add(origin);
  return page;
}

/** Opens the page, by default as Ann, and waits until it has joined its room and shows the history. */
export async function joinPage(
  server: Parameters<typeof openPage>[0],
  path = "/client?id=ann",
  look?: Look,
): Promise<Page> {
  const page = await openPage(server, path, look);
  await page.shows(`[${page.state}, ${page.busy}]`, ["open", "false"]);
  return page;
}

export class Page implements Disposable {
  /** Errors and warnings in its console, and uncaught exceptions. */
  readonly complaints: string[] = [];
  readonly #view: Bun.WebView;
  #isClosed = false;
  #origin = "";
  /** Resolves when it has left the previous page. */
  #left: Promise<unknown> | undefined;
  /** Only one `evaluate` may run at a time. */
  #asked: Promise<unknown> | undefined;

  constructor() {
    this.#view = new Bun.WebView({
      backend: {
        type: "chrome",
        url: false,
        ...(chromium ? { path: chromium } : {}),
        argv: [
          ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
          "--disable-dev-shm-usage",
          "--in-process-gpu", // saves a tenth of the CPU time
          "--allow-pre-commit-input", // otherwise input before the first frame is lost
          "--disable-background-networking",
          "--disable-component-update",
          "--disable-sync",
          "--disable-quic",
          `--host-resolver-rules=MAP ${LOCAL_NAME} 127.0.0.1`,
        ],
      },
      console: (type, ...args) => {
        if (type === "error" || type === "warning") this.#complain(args.map(String).join(" "));
      },
    });
  }

  async open(
    url: string,
    {
      width = 1280,
      height = 800,
      dark = false,
      forcedColors = false,
      touch = false,
      language = "en-GB",
    }: Look,
    isFirstVisit: boolean,
  ): Promise<void> {
    if (this.#left) await this.#left;
    else await this.#begin();
    this.#origin = new URL(url).origin;
    this.complaints.length = 0;
    await this.#view.cdp("Emulation.setDeviceMetricsOverride", {
      width,
      height,
      deviceScaleFactor: 1,
      mobile: false,
    });
    await this.setTheme({ dark, forcedColors });
    await this.#view.cdp("Emulation.setTouchEmulationEnabled", { enabled: touch });
    await this.#view.cdp("Emulation.setUserAgentOverride", {
      userAgent: "Hubbub's tests",
      acceptLanguage: language,
    });
    // This tab may have been used for an earlier server at the same port.
    await using _ = await this.#runsFirst(
      `sessionStorage.clear();${isFirstVisit ? "localStorage.clear();" : ""}`,
    );
    await this.#view.navigate(url);
  }

  async setTheme({ dark = false, forcedColors = false }: Theme): Promise<void> {
    await this.#view.cdp("Emulation.setEmulatedMedia", {
      media: "",
      features: [
        { name: "prefers-color-scheme", value: dark ? "dark" : "light" },
        { name: "prefers-reduced-motion", value: "reduce" },
        { name: "forced-colors", value: forcedColors ? "active" : "none" },
      ],
    });
  }

  async #begin(): Promise<void> {
    await this.#view.navigate("about:blank");
    await this.#view.cdp("Runtime.enable");
    await this.#view.cdp("Log.enable");
    await this.#view.cdp("Page.enable");
    // Each tab stands for a window that its user works in. Without focus, an element that gets it fires no event.
    await this.#view.cdp("Emulation.setFocusEmulationEnabled", { enabled: true });
    await this.#view.cdp("Page.addScriptToEvaluateOnNewDocument", {
      source: PRELUDE + permitting("default"),
    });
    for (const event of ["Runtime.exceptionThrown", "Log.entryAdded"])
      this.#view.addEventListener(event, (happened) => this.#complain(Bun.inspect(happened)));
  }

  /** Ignores what still comes from the previous page. */
  #complain(what: string): void {
    if (!what.includes("://") || what.includes(this.#origin)) this.complaints.push(what);
  }

  run<T>(expression: string): Promise<T> {
    return this.#view.evaluate<T>(expression);
  }

  cdp<T>(method: string, params: Record<string, unknown> = {}): Promise<T> {
    return this.#view.cdp<T>(method, params);
  }

  /** Calls the listener with the parameters of each such event of the DevTools protocol, until disposed. */
  listens<T>(event: string, listener: (params: T) => void): Disposable {
    const onEvent = (happened: Event) => happened instanceof MessageEvent && listener(happened.data);
    this.#view.addEventListener(event, onEvent);
    return { [Symbol.dispose]: () => this.#view.removeEventListener(event, onEvent) };
  }

  reload(): Promise<void> {
    return this.#view.reload();
  }

  /** Loads the page again in a browser that refuses to store anything, until disposed. */
  disablesStorage(): Promise<AsyncDisposable> {
    return this.#reloadsWith(`for (const name of ["localStorage", "sessionStorage"])
      Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });`);
  }

  /** Loads the page again in a browser where the user has decided on notifications, until disposed. */
  decidesOnNotifications(state: Permission): Promise<AsyncDisposable> {
    return this.#reloadsWith(permitting(state));
  }

  async #reloadsWith(source: string): Promise<AsyncDisposable> {
    const script = await this.#runsFirst(source);
    await this.reload();
    return script;
  }

  /** Runs the script at the start of each document, until disposed. */
  async #runsFirst(source: string): Promise<AsyncDisposable> {
    const { identifier } = await this.cdp<{ identifier: string }>("Page.addScriptToEvaluateOnNewDocument", {
      source,
    });
    return {
      [Symbol.asyncDispose]: () => this.cdp("Page.removeScriptToEvaluateOnNewDocument", { identifier }),
    };
  }

  async click(selector: string): Promise<void> {
    await this.#view.click(selector);
  }

  /** Types into the focused element; a line break presses Shift+Enter. */
  async type(text: string): Promise<void> {
    for (const [i, line] of text.split("\n").entries()) {
      if (i > 0) await this.press("Enter", "Shift");
      if (line) await this.#view.type(line);
    }
  }

  async press(key: Bun.WebView.VirtualKey, ...modifiers: Bun.WebView.Modifier[]): Promise<void> {
    await this.#view.press(key, { modifiers });
  }

  /** Sends a message with the composer. */
  async says(text: string): Promise<void> {
    await this.run("document.getElementById('messageText').focus()");
    await this.type(text);
    await this.press("Enter");
  }

  /** Delivers frames to the page as if the server had sent them. */
  async receives(...events: readonly object[]): Promise<void> {
    await this.run(
      `${JSON.stringify(events)}.forEach((event) => sockets.at(-1).dispatchEvent(new MessageEvent("message", { data: JSON.stringify(event) })))`,
    );
  }

  /** The connection breaks, and the client waits for some seconds before it reconnects. */
  async losesConnection(): Promise<void> {
    await this.run(
      "(Math.random = () => 20, sockets.at(-1).dispatchEvent(new CloseEvent('close', { code: 1006 })), 0)",
    );
  }

  /** The network is back, as the browser reports it: the client reconnects immediately. */
  async isBackOnline(): Promise<void> {
    await this.run("dispatchEvent(new Event('online'))");
  }

  /** The page's clock moves only by {@link advancesClock} from here on; its timers keep their pace. */
  async stopsClock(): Promise<void> {
    await this.run("(Date.now = ((now) => () => now)(Date.now()), 0)");
  }

  /** Moves the page's clock; its timers keep their pace. */
  async advancesClock(ms: number): Promise<void> {
    await this.run(`(Date.now = ((now) => () => now() + ${ms})(Date.now), 0)`);
  }

  /** Timers of exactly this delay do not fire from here on; `window.held` has what they would do. */
  async holdsTimers(delayMs: number): Promise<void> {
    await this.run(
      `(window.held = [], window.setTimeout = ((set) => (act, ms) => ms === ${delayMs} ? held.push(act) : set(act, ms))(setTimeout), 0)`,
    );
  }

  /** The next held timer fires. */
  async firesTimer(): Promise<void> {
    await this.run("(held.shift()(), 0)");
  }

  /** Scrolls the conversation, and waits until the page has handled it. */
  async scrolls(byPixels: number): Promise<void> {
    await this.run(
      `(scroller.scrollTop += ${byPixels}, new Promise((done) => requestAnimationFrame(() => setTimeout(done))))`,
    );
  }

  /** What the tab stores under `hubbub.NAME`, as a reload finds it. */
  async stores(name: string, value: object): Promise<void> {
    await this.run(`sessionStorage.setItem("hubbub.${name}", ${JSON.stringify(JSON.stringify(value))})`);
  }

  /** Waits until the expression has this value. */
  async shows(expression: string, expected: unknown): Promise<void> {
    let seen: unknown;
    let late = false;
    const wait = (async () => {
      while (!late) {
        // Between two pages it throws.
        seen = await this.run(expression).catch((error: Error) => error.message);
        if (Bun.deepEquals(seen, expected)) return;
        await Bun.sleep(POLL_MS);
      }
    })();
    this.#asked = wait;
    try {
      await withDeadline(
        wait,
        () => `${expression}: expected ${Bun.inspect(expected)}, saw ${Bun.inspect(seen)}`,
        DEADLINE_MS,
      );
    } finally {
      late = true;
    }
  }

  /** The conversation as it reads: a line per entry, with the name where one is shown. */
  get conversation(): string {
    return `[...document.querySelectorAll(".block > li")].map((entry) => {
      const name = entry.querySelector(".who:not([hidden]) .name")?.textContent;
      const text = (entry.querySelector(".bubble") ?? entry).textContent;
      const state = entry.querySelector(".state")?.textContent;
      return [entry.matches(".own") ? "me" : name, text, state].filter(Boolean).join(": ");
    })`;
  }

  /** The state of the connection: connecting, open, reconnecting or closed. */
  get state(): string {
    return "document.documentElement.dataset.state";
  }

  /** Whether the history is still arriving: "true" or "false". */
  get busy(): string {
    return "document.querySelector('[role=log]').ariaBusy";
  }

  /** How many of one's own messages have not been broadcast yet. */
  get pending(): string {
    return "document.querySelectorAll('.pending, .acknowledged').length";
  }

  /** Why the last messages are pending, once for all of them. */
  get progress(): string {
    return "$('progress').textContent";
  }

  /** The texts of the messages. */
  get texts(): string {
    return "[...document.querySelectorAll('.bubble')].map((bubble) => bubble.textContent)";
  }

  /** How many clients are in the room, as the page shows it. */
  get here(): string {
    return "$('here').textContent";
  }

  /** The names in the list of people. */
  get people(): string {
    return "[...document.querySelectorAll('aside bdi')].map((name) => name.textContent)";
  }

  /** How many pages of earlier messages have been requested. */
  get earlierRequests(): string {
    return "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/messages')).length";
  }

  /** Pixels between what is visible and the end of the conversation. */
  get fromEnd(): string {
    return "Math.round(scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight)";
  }

  /** The dates shown in the conversation. */
  get days(): string {
    return `[...document.querySelectorAll(".day:not([hidden])")].map((day) => day.textContent)`;
  }

  /** The status line above the conversation, "" if hidden. */
  get line(): string {
    return `["what", "when", "action", "other"].map((id) => $("connection").hidden ? "" : $(id).textContent).filter(Boolean).join(" ")`;
  }

  /** Closes the tab, as a user would. */
  close(): void {
    this.#isClosed = true;
    this.#view.close();
  }

  [Symbol.dispose](): void {
    if (this.#isClosed) return;
    // Navigating directly to the next page is faster than via a blank one.
    this.#left = Promise.resolve(this.#asked)
      .then(() => this.run("dispatchEvent(new Event('pagehide'))"))
      .catch(() => {});
    free.push(this);
  }
}
