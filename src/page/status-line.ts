/** The line above the conversation: a lost, rejected or restored connection, or a name that is already taken. One at a time. */

import type { Client, ConnectionState } from "../client/client.ts";
import type { Welcome } from "../protocol/events.ts";
import type { Announcer } from "./announcer.ts";
import type { Composer } from "./composer.ts";
import { find } from "./dom.ts";
import { isName, type Identity } from "./identity.ts";
import { fetchServerOrigin } from "./server-address.ts";
import { load, save, TAB } from "./storage.ts";
import { words } from "./words.ts";

/** A connection that is back within this time was never reported as lost. */
const PATIENCE_MS = 2_000;
const BACK_SHOWN_MS = 4_000;
const UPDATE_INTERVAL_MS = 250;

type Action = readonly [label: string, run: () => void];
type Closed = Extract<ConnectionState, { readonly status: "closed" }>;

/** What the user can do about a rejection. */
interface Remedies {
  chooseName(): void;
  withdrawName(): void;
  chooseRoom(): void;
  useToken(token: string): void;
}

export class StatusLine {
  readonly #identity: Identity;
  readonly #composer: Composer;
  readonly #announcer: Announcer;
  readonly #remedies: Remedies;
  readonly #line = find("connection", HTMLElement);
  readonly #tokenField = find("token-field", HTMLElement);
  readonly #token = find("token", HTMLInputElement);
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
  #serverOrigin: Promise<string | undefined> | undefined;
  #ownPage: string | undefined;

  constructor(identity: Identity, composer: Composer, announcer: Announcer, remedies: Remedies) {
    this.#identity = identity;
    this.#composer = composer;
    this.#announcer = announcer;
    this.#remedies = remedies;
    find("token-form", HTMLFormElement).onsubmit = (event) => {
      event.preventDefault();
      if (this.#token.value.trim() === "") return;
      remedies.useToken(this.#token.value);
      this.#token.value = "";
    };
    setInterval(() => this.update(), UPDATE_INTERVAL_MS);
  }

  attach(client: Client): void {
    this.#client = client;
    this.#composer.isOff = false;
    client.on("state", ({ status }) => {
      if (client !== this.#client) return;
      this.#lostAt = status === "open" ? 0 : this.#lostAt || Date.now();
      this.#composer.isOff = status === "closed";
    });
  }

  /** The client is about to be closed, and another one follows. */
  detach(): void {
    this.#client = undefined;
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
    if (this.#wasVisible && this.#isRecovered && caughtUp > 0) {
      this.#backText = words.caughtUp(caughtUp);
      this.#backUntil = Date.now() + BACK_SHOWN_MS;
    } else if (this.#wasVisible) this.#announcer.announce(words.back);
    this.update();
  }

  update(): void {
    if (!this.#client) return;
    const { state } = this.#client;
    const now = Date.now();
    if (state.status === "closed") this.#showClosed(state);
    else if (this.#lostAt && now - this.#lostAt >= PATIENCE_MS) {
      const text = this.#wasWelcomed ? words.lost : words.notYet;
      const seconds = state.status === "reconnecting" ? Math.ceil((state.retryAt - now) / 1000) : 0;
      if (seconds > 0) this.#show(text, words.again(seconds), [this.#retry]);
      else this.#show(text, words.connecting);
    } else if (now < this.#backUntil) this.#show(this.#backText);
    else if (this.#hasTwin)
      this.#show(words.twin(this.#identity.name), "", [
        [words.thatsMe, () => this.#acceptTwin()],
        [words.chooseOther, () => this.#remedies.chooseName()],
      ]);
    else this.#line.hidden = true;
  }

  get #retry(): Action {
    return [words.tryNow, () => this.#client?.retryNow()];
  }

  /** Rejected for good: why, and what to do. */
  #showClosed({ reason, code, statusCode }: Closed): void {
    const { name, room, token } = this.#identity;
    const chooseName: Action = [words.chooseName, () => this.#remedies.chooseName()];
    const chooseRoom: Action = [words.chooseRoom, () => this.#remedies.chooseRoom()];
    const why = words.closed.get(code ?? statusCode ?? "") ?? words.closed.get(statusCode ?? "") ?? reason;
    const needsToken = statusCode === 401 || statusCode === 4002;
    // Without a status, the browser has refused to send the token.
    const isAboutToken =
      needsToken || code === "not-for-client" || (token !== "" && statusCode === undefined);
    if (code === "origin") this.#showForeign();
    else if (!isName(name)) this.#show(`${words.invalidName} ${words.nameRule}`, "", [chooseName]);
    else if (!isName(room)) this.#show(`${words.invalidRoom} ${words.nameRule}`, "", [chooseRoom]);
    else if (isAboutToken) this.#show(why, "", needsToken ? [] : [this.#retry], true);
    else if (code === "not-for-room") this.#show(why, "", [chooseRoom], true);
    else if (code === "bad-name") this.#show(why, "", [chooseName, chooseRoom]);
    else this.#show(why, "", [statusCode === 4001 ? [words.continueHere, this.#retry[1]] : this.#retry]);
  }

  /** The server may be reached by another address, whose pages it accepts. */
  #showForeign(): void {
    this.#serverOrigin ??= fetchServerOrigin();
    void this.#serverOrigin.then((origin) => (this.#ownPage = origin));
    const open = () => (location.href = `${this.#ownPage}/client${location.search}`);
    const isElsewhere = this.#ownPage !== undefined && this.#ownPage !== location.origin;
    const actions: readonly Action[] = isElsewhere ? [[words.openOwnPage, open], this.#retry] : [this.#retry];
    this.#show(words.foreign(location.origin), "", actions);
  }

  #acceptTwin(): void {
    save(TAB, "twin", this.#identity.name);
    this.#hasTwin = false;
    this.update();
    this.#composer.focus();
  }

  /** Changes only what differs: a button may be about to be released, a sentence may be being read out. */
  #show(what: string, when = "", [action, other]: readonly Action[] = [], asksForToken = false): void {
    const isNew = asksForToken && this.#tokenField.hidden;
    this.#line.hidden = false;
    this.#line.className = this.#client?.state.status === "open" ? "calm" : "";
    this.#tokenField.hidden = !asksForToken;
    setText(find("what", HTMLElement), what);
    setText(find("when", HTMLElement), when);
    setText(this.#action, action?.[0] ?? "");
    setText(this.#other, other?.[0] ?? "");
    this.#action.onclick = action?.[1] ?? null;
    this.#other.onclick = other?.[1] ?? null;
    if (!isNew) return;
    this.#remedies.withdrawName(); // the token names the user
    this.#token.focus();
  }
}

function setText(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}
