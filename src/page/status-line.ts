/** The line above the conversation: a lost, closed or restored connection, and a name that is already taken. */

import type { Client } from "../client/client.ts";
import type { Welcome } from "../protocol/events.ts";
import { find } from "./dom.ts";
import { isName, type Identity } from "./identity.ts";
import type { NameDialog } from "./name-dialog.ts";
import { load, save, TAB } from "./storage.ts";
import { words } from "./words.ts";

/** A connection that is back within this time was never reported as lost. */
const PATIENCE_MS = 2_000;
const BACK_SHOWN_MS = 4_000;
const UPDATE_INTERVAL_MS = 250;

type Action = readonly [label: string, run: () => void];

export class StatusLine {
  readonly #identity: Identity;
  readonly #dialog: NameDialog;
  readonly #focusComposer: () => void;
  readonly #line = find("connection", HTMLElement);
  readonly #action = find("action", HTMLButtonElement);
  readonly #other = find("other", HTMLButtonElement);
  #client: Client | undefined;
  #wasWelcomed = false;
  /** When the connection was lost; Unix time in milliseconds, 0 while it is open. */
  #lostAt = Date.now();
  #wasVisible = false;
  #isRecovered = false;
  #backText = "";
  #backUntil = 0;
  /** Only the first welcome after choosing a name asks about other connections of that name. */
  #asksAboutTwin = true;
  #hasTwin = false;

  constructor(identity: Identity, dialog: NameDialog, focusComposer: () => void) {
    this.#identity = identity;
    this.#dialog = dialog;
    this.#focusComposer = focusComposer;
    setInterval(() => this.update(), UPDATE_INTERVAL_MS);
  }

  attach(client: Client): void {
    this.#client = client;
    client.on("state", ({ status }) => {
      if (client === this.#client) this.#lostAt = status === "open" ? 0 : this.#lostAt || Date.now();
    });
  }

  onRename(): void {
    this.#asksAboutTwin = true;
  }

  onWelcome({ recovered, connections }: Welcome): void {
    const { isGenerated, name } = this.#identity;
    this.#wasWelcomed = true;
    this.#isRecovered = recovered === true;
    this.#wasVisible = !this.#line.hidden;
    this.#hasTwin = this.#asksAboutTwin && connections > 1 && !isGenerated && load(TAB, "twin") !== name;
    this.#asksAboutTwin = false;
  }

  /** @param caughtUp messages of others since the welcome */
  onReplayed(caughtUp: number): void {
    if (this.#wasVisible) this.#backUntil = Date.now() + BACK_SHOWN_MS;
    this.#backText = this.#isRecovered && caughtUp > 0 ? words.caughtUp(caughtUp) : words.back;
    this.update();
  }

  update(): void {
    if (!this.#client) return;
    const { state } = this.#client;
    const now = Date.now();
    const retry: Action = [words.tryNow, () => this.#client?.retryNow()];
    const chooseName: Action = [words.choose, () => this.#dialog.chooseName()];
    const chooseRoom: Action = [words.chooseRoom, () => this.#dialog.chooseRoom()];
    if (state.status === "closed") {
      if (state.code === "origin") this.#show(words.foreign(location.origin), "", retry);
      else if (!isName(this.#identity.name))
        this.#show(`${words.invalidName} ${words.nameRule}`, "", chooseName);
      else if (!isName(this.#identity.room))
        this.#show(`${words.invalidRoom} ${words.nameRule}`, "", chooseRoom);
      else this.#show(words.closed.get(state.statusCode ?? 0) ?? state.reason, "", retry);
    } else if (this.#lostAt && now - this.#lostAt >= PATIENCE_MS) {
      const text = this.#wasWelcomed ? words.lost : words.notYet;
      const seconds = state.status === "reconnecting" ? Math.ceil((state.retryAt - now) / 1000) : 0;
      if (seconds > 0) this.#show(text, words.again(seconds), retry);
      else this.#show(text, words.connecting);
    } else if (now < this.#backUntil) this.#show(this.#backText);
    else if (this.#hasTwin)
      this.#show(words.twin(this.#identity.name), "", [words.thatsMe, () => this.#acceptTwin()], chooseName);
    else this.#line.hidden = true;
  }

  #acceptTwin(): void {
    save(TAB, "twin", this.#identity.name);
    this.#hasTwin = false;
    this.update();
    this.#focusComposer();
  }

  /** Changes only what differs: a button may be about to be released, a sentence may be being read out. */
  #show(what: string, when = "", action?: Action, other?: Action): void {
    this.#line.hidden = false;
    this.#line.className = this.#client?.state.status === "open" ? "calm" : "";
    setText(find("what", HTMLElement), what);
    setText(find("when", HTMLElement), when);
    setText(this.#action, action?.[0] ?? "");
    setText(this.#other, other?.[0] ?? "");
    this.#action.onclick = action?.[1] ?? null;
    this.#other.onclick = other?.[1] ?? null;
  }
}

function setText(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}
