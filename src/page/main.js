	"use strict";

	// Words

	const zh = /^zh/i.test(navigator.language);
	const language = zh ? "zh-Hant-TW" : /^en/i.test(navigator.language) ? navigator.language : "en";
	const words = zh
		? {
				youAre: "你是",
				room: "房間",
				close: "關閉",
				you: "（你）",
				here: (count) => `${count} 人在這裡`,
				joined: "來了",
				unread: "新訊息",
				notSent: (reason) => `沒有送出：${reason}`,
				twin: (name) => `已經有人以 ${name} 的名字在這裡。`,
				thatsMe: "那是我",
				caughtUp: (count) => `已恢復連線。補上了 ${count} 則訊息，沒有遺漏。`,
				rename: "改名字",
				conversation: "對話",
				empty: "還沒有人說話。打個招呼，或在另一個分頁打開這個頁面。",
				message: "訊息",
				send: "送出",
				yourName: "你的名字",
				problems: { name: "這個名字不能用。", "room-name": "這個房間名稱不能用。" },
				choose: "選一個名字",
				chooseRoom: "選另一個房間",
				nameRule: "1 到 64 個字母、數字或「_」「-」「.」，任何文字皆可，不含空格。",
				cancel: "取消",
				use: "使用",
				sending: "傳送中…",
				unsure: "可能沒有送出",
				retry: "重試",
				remove: "刪除",
				left: "離開了",
				others: (count) => `另外 ${count} 人`,
				fresh: (count) => `${count} 則新訊息 ↓`,
				lost: "連線中斷。你寫的內容會保留。",
				notYet: "還沒有連上。你寫的內容會保留。",
				again: (seconds) => `${seconds} 秒後重試`,
				connecting: "連線中…",
				tryNow: "立即重試",
				back: "已恢復連線。",
				gap: "這裡可能缺少一些訊息。",
				tooLong: (size, most) => `這則訊息有 ${size}，一則最多 ${most}。請分成幾則。`,
				download: "下載",
				image: "圖片",
				someone: "有人傳來檔案",
				closed: {
					401: "這裡需要有效的權杖，請向主人索取。",
					403: "你不能用這個名字、房間或網址連線。",
					1008: "權杖過期了，或是傳送太多了。",
					4001: "這段對話已在別處繼續。",
				},
				foreign: (origin) =>
					`這個伺服器不接受 ${origin} 的連線。請伺服器的主人以 --public-url ${origin} 允許這個網址。`,
				announce: (name, text) => `${name}：${text}`,
				announceMany: (count) => `${count} 則新訊息`,
				earlier: (count) => `${count} 則較早的訊息`,
			}
		: {
				youAre: "You are",
				room: "Room",
				close: "Close",
				you: " (you)",
				here: (count) => `${count} here`,
				joined: " joined",
				unread: "New",
				notSent: (reason) => `Not sent: ${reason}`,
				twin: (name) => `Someone is already here as ${name}.`,
				thatsMe: "That’s me",
				caughtUp: (count) =>
					`Back. ${count === 1 ? "1 message" : `${count} messages`} caught up, nothing missing.`,
				rename: "Choose another name",
				conversation: "Conversation",
				empty: "Nothing has been said yet. Say hello, or open this page in a second tab.",
				message: "Message",
				send: "Send",
				yourName: "Your name",
				problems: { name: "That name is not allowed.", "room-name": "That room name is not allowed." },
				choose: "Choose a name",
				chooseRoom: "Choose another room",
				nameRule: "1 to 64 letters, digits, “_”, “-” or “.”, in any script, without spaces.",
				cancel: "Cancel",
				use: "Use it",
				sending: "Sending…",
				unsure: "Maybe not sent",
				retry: "Retry",
				remove: "Delete",
				left: " left",
				others: (count) => (count === 1 ? "1 other" : `${count} others`),
				fresh: (count) => `${count} new ↓`,
				lost: "Connection lost. What you write is kept.",
				notYet: "No connection yet. What you write is kept.",
				again: (seconds) => `Trying again in ${seconds} s`,
				connecting: "Connecting…",
				tryNow: "Try now",
				back: "Back.",
				gap: "Some messages may be missing here.",
				foreign: (origin) =>
					`This server does not accept connections from ${origin}. Its operator can allow this address with --public-url ${origin}.`,
				tooLong: (size, most) => `This message is ${size}, and ${most} fit into one. Please split it.`,
				download: "Download",
				image: "Image",
				someone: "Someone sent a file",
				announce: (name, text) => `${name}: ${text}`,
				announceMany: (count) => `${count} new messages`,
				earlier: (count) => `${count} earlier messages`,
			};

	const $ = (id) => document.getElementById(id);
	const $$ = (selector) => document.querySelectorAll(selector);
	const [scroller, list, box] = [$("scroller"), $("messages"), $("messageText")];

	document.documentElement.lang = zh ? "zh-Hant" : "en";
	const places = { text: "textContent", label: "ariaLabel", title: "title", placeholder: "placeholder" };
	for (const [place, property] of Object.entries(places))
		for (const element of $$(`[data-${place}]`)) element[property] = words[element.dataset[place]];

	// What is kept: where storage is switched off, the chat goes on without

	const [TAB, ALL] = ["sessionStorage", "localStorage"];

	function keep(storage, key, value) {
		try {
			window[storage].setItem(`hubbub.${key}`, value);
		} catch {}
		return value;
	}

	function recall(storage, key) {
		try {
			return window[storage].getItem(`hubbub.${key}`) ?? "";
		} catch {
			return "";
		}
	}

	// Who I am

	const NAME = /^(?!\.{1,2}$)[\p{L}\p{N}_.-][\p{L}\p{M}\p{N}_.-]{0,63}$/u;
	const INVISIBLE = /[\p{Default_Ignorable_Code_Point}\u{13441}\u{13442}\u{16FE4}]/u;

	function isName(text) {
		return NAME.test(text) && !INVISIBLE.test(text);
	}

	const address = new URL(location.href);
	/** Says who I am; it does not stay where others may see it. */
	const token = keep("sessionStorage", "token", address.searchParams.get("token") || recall(TAB, "token"));
	address.searchParams.delete("token");
	history.replaceState(null, "", address);
	$("me").disabled = $("name").readOnly = token !== "";

	let me = (address.searchParams.get("id") || recall(ALL, "name")).normalize("NFC");
	/** Nobody chose it, so nobody else has it. */
	let isOwnId = me === "";
	me ||= ownId();
	/** Names that this page had before: that they leave is no news. */
	const formerly = new Set();

	/** The tutorial's, and three digits: two tabs opened at once are two clients. */
	function ownId() {
		const digits = `${crypto.getRandomValues(new Uint16Array(1))[0] % 1000}`.padStart(3, "0");
		return recall(TAB, "id") || keep(TAB, "id", `${Date.now()}${digits}`);
	}

	const roomName = (address.searchParams.get("room") || "lobby").normalize("NFC");

	function showMe() {
		$("ws-id").textContent = me;
		$("room").textContent = roomName;
	}

	function chooseName() {
		$("name").value = me;
		$("room-name").value = roomName;
		for (const field of fields) mark(field, false);
		$("naming").showModal();
		$("name").select();
	}

	function chooseRoom() {
		chooseName();
		$("room-name").select();
	}

	const fields = [$("name"), $("room-name")];
	for (const field of fields) field.oninput = () => mark(field, false);
	$("me").onclick = chooseName;
	$("room").onclick = chooseRoom;
	$("cancel").onclick = () => $("naming").close();
	for (const dialog of [$("naming"), $("list")]) dialog.onclose = () => box.focus();
	$("naming").onsubmit = (event) => {
		const [name, other] = fields.map(({ value }) => value.trim().normalize("NFC"));
		const wrong = fields.filter((_, i) => !isName([name, other][i]));
		for (const field of fields) mark(field, wrong.includes(field));
		if (wrong.length > 0) {
			event.preventDefault();
			wrong[0].focus();
			return;
		}
		if (name !== me) keep(ALL, "name", name);
		if (address.searchParams.has("id")) address.searchParams.set("id", name);
		if (other !== roomName) {
			address.searchParams.set("room", other);
			location.href = address;
			return;
		}
		if (name === me) return;
		history.replaceState(null, "", address);
		formerly.add(me);
		formerly.delete(name);
		me = name;
		showMe();
		rename();
	};

	/** Only the field that is wrong is marked, with the sentence below it. */
	function mark(field, isWrong) {
		const problem = $(`${field.id}-problem`);
		field.ariaInvalid = isWrong;
		problem.hidden = !isWrong;
		problem.textContent = isWrong ? words.problems[field.id] : "";
	}

	// The list: entries in the order of the room, and below them what is still on its way

	const GROUP_MS = 5 * 60_000;
	const MAX_SHOWN = 5_000;
	const NEAR_END_PX = 40;

	let following = true;
	let lastTop = 0;
	let fresh = 0;

	const clock = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit" });
	const calendar = new Intl.DateTimeFormat(language, { weekday: "long", day: "numeric", month: "long" });

	function element(tag, className, ...children) {
		const made = document.createElement(tag);
		if (className) made.className = className;
		made.append(...children);
		return made;
	}

	function button(text, onclick) {
		const made = element("button", "link", text);
		made.onclick = onclick;
		return made;
	}

	/** Puts an entry in front of what is on its way, or before another; it may have been elsewhere. */
	function insert(entry, before = entry.classList.contains("pending") ? null : firstPending()) {
		$("empty").hidden = true;
		const wasBefore = entry.nextElementSibling;
		list.insertBefore(entry, before);
		for (const each of [entry, entry.nextElementSibling, wasBefore]) arrange(each);
		while (following && list.childElementCount > MAX_SHOWN) {
			let oldest = list.firstChild;
			while (oldest?.text) oldest = oldest.nextElementSibling; // undecided: it stays
			if (!oldest || oldest.classList.contains("pending")) break;
			remove(oldest);
			hasEarlier = true;
		}
	}

	function remove(entry) {
		const next = entry.nextElementSibling;
		for (const { href } of entry.querySelectorAll("a[download]")) URL.revokeObjectURL(href);
		entry.remove();
		arrange(next);
		showEmpty();
	}

	/** Only who is in a room knows that nothing was said there. */
	function showEmpty() {
		$("empty").hidden = !wasWelcome || list.childElementCount > 0;
	}

	function firstPending() {
		return pending.values().next().value ?? null;
	}

	function lastSaid() {
		const next = firstPending();
		return next ? next.previousElementSibling : list.lastElementChild;
	}

	/** Consecutive messages of one client share one name, and those of one day one line with its date. */
	function arrange(entry) {
		while (entry && !entry.sent) entry = entry.nextElementSibling;
		if (!entry) return;
		const above = entry.previousElementSibling;
		const together = above?.client === entry.client && entry.client && entry.sent - above.sent < GROUP_MS;
		let earlier = above;
		while (earlier && !earlier.sent) earlier = earlier.previousElementSibling;
		const sameDay = earlier?.sent.toDateString() === entry.sent.toDateString();
		entry.classList.toggle("first", !together || !sameDay);
		for (const part of entry.querySelectorAll(".who, .avatar")) part.hidden = together && sameDay;
		entry.querySelector(".day").hidden = sameDay;
	}

	function draw(client, content, own, ms = Date.now()) {
		const sent = new Date(ms);
		const time = element("time", "", clock.format(sent));
		time.dateTime = sent.toISOString();
		const entry = element(
			"li",
			own ? "message own" : "message",
			element("div", "notice rule day", calendar.format(sent)),
			avatar(client),
			element("div", "who", element("bdi", own ? "name unseen" : "name", client), time),
			content,
		);
		entry.style.setProperty("--hue", hue(client));
		Object.assign(entry, { client, sent });
		return entry;
	}

	function hear(message) {
		const { id, from, text } = message;
		// My own stands from here on where everyone hears it.
		if (confirmed.has(id)) remove(confirmed.get(id));
		confirmed.delete(id);
		const entry = drawMessage(message);
		entry.heardAt = isHistory ? 0 : Date.now();
		insert(entry);
		if (from === me || isHistory) return;
		caughtUp++;
		if (document.hidden || !following) markUnread(entry);
		if (!following) showFresh(fresh + 1);
		announce(words.announce(from, text ?? words.someone));
	}

	function drawMessage({ id, time, from, text, data }) {
		const content =
			text === undefined
				? attachment(Uint8Array.from(atob(data), (byte) => byte.charCodeAt()))
				: bubble(text);
		return Object.assign(draw(from, content, from === me, time), { key: id, heardAt: 0 });
	}

	// What was said before, when one scrolls up

	const NEAR_START_PX = 600;
	let hasEarlier = true;
	/** One page at a time. */
	let isReading = false;

	function oldestId() {
		return [...list.children].find(({ key }) => key)?.key;
	}

	async function readEarlier() {
		const oldest = oldestId();
		if (!hasEarlier || isReading || !oldest || scroller.scrollTop > NEAR_START_PX) return;
		isReading = true;
		const page = await room.historyBefore(oldest).catch(() => undefined);
		isReading = false;
		// What it would have joined on to may have been trimmed meanwhile.
		if (!page || oldest !== oldestId()) return;
		const fromEnd = scroller.scrollHeight - scroller.scrollTop;
		for (const message of page.messages.reverse()) {
			const entry = drawMessage(message);
			list.prepend(entry);
			arrange(entry);
			arrange(entry.nextElementSibling);
		}
		lastTop = scroller.scrollTop = scroller.scrollHeight - fromEnd;
		if (page.messages.length > 0) announce(words.earlier(page.messages.length));
		hasEarlier = page.more;
	}

	// What came while nobody looked

	let unread = 0;
	const unreadLine = element("li", "notice rule unread", words.unread);

	function markUnread(entry) {
		if (unread++ === 0) entry.before(unreadLine);
		arrange(entry);
		showTitle();
	}

	function seen() {
		if (document.hidden || !following || unread === 0) return;
		unread = 0;
		showTitle();
	}
	document.addEventListener("visibilitychange", seen);

	function showTitle() {
		document.title = `${unread > 0 ? `(${unread}) ` : ""}${roomName} · Hubbub`;
	}

	function avatar(client) {
		const made = element("div", "avatar", initials(client));
		made.ariaHidden = true;
		return made;
	}

	function initials(client) {
		if (/^\d{3,}$/.test(client)) return client.slice(-2);
		return (client.match(/^\P{M}\p{M}*/u)?.[0] ?? "?").toUpperCase();
	}

	function hue(client) {
		let hash = 0;
		for (const character of client) hash = (hash * 31 + character.codePointAt(0)) >>> 0;
		return (hash % 12) * 30;
	}

	const EMOJI = /^\p{RGI_Emoji}{1,3}$/v;
	const LINK = /https?:\/\/[^\s<>"“”「」]+/gi;

	/** Text nodes and links, nothing else: what was written is never markup. */
	function bubble(text) {
		const made = element("div", EMOJI.test(text) ? "bubble emoji" : "bubble");
		made.dir = "auto";
		let done = 0;
		for (const { 0: found, index } of text.matchAll(LINK)) {
			const href = withoutPunctuation(found);
			if (!URL.canParse(href)) continue;
			const link = element("a", "", href);
			Object.assign(link, { href, target: "_blank", rel: "noopener noreferrer" });
			made.append(text.slice(done, index), link);
			done = index + href.length;
		}
		made.append(text.slice(done));
		return made;
	}

	const OPENS = { ")": "(", "]": "[", "}": "{" };

	/** Closing punctuation ends the sentence, not the link; a bracket belongs to it only where it opens one. */
	function withoutPunctuation(link) {
		const count = {};
		for (const character of link) count[character] = (count[character] ?? 0) + 1;
		let end = link.length;
		for (; end > 0; end--) {
			const last = link[end - 1];
			if (
				last in OPENS
					? count[last] <= (count[OPENS[last]] ?? 0)
					: !/[.,:;!?'、。，：；！？）】》』…]/.test(last)
			)
				break;
			count[last]--;
		}
		return link.slice(0, end);
	}

	function kib(bytes) {
		return bytes < 1024 ? `${bytes} B` : `${Math.ceil(bytes / 1024)} KB`;
	}

	function attachment(bytes) {
		const href = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
		const made = element("div", "bubble");
		const link = Object.assign(element("a", "", words.download), { href, download: "hubbub.bin" });
		made.append(`${kib(bytes.byteLength)} · `, link);
		// Whatever the browser can show is an image.
		const image = Object.assign(element("img"), { src: href, alt: words.image });
		image.onload = () => made.replaceChildren(image);
		return made;
	}

	// Who is here

	const GRACE_MS = 5_000;
	const MAX_LISTED = 200;
	const collator = new Intl.Collator(language);
	const people = new Set();
	/** Gone, but perhaps only for a moment. */
	const leaving = new Map();
	let count = 0;

	function meet({ joined, left, count: now }) {
		count = now;
		for (const name of joined) comes(name, true);
		for (const name of left) goes(name);
		showPeople();
	}

	function comes(name, isNews) {
		const wasHere = people.has(name) || leaving.has(name);
		clearTimeout(leaving.get(name));
		leaving.delete(name);
		people.add(name);
		if (isNews) formerly.delete(name);
		if (isNews && !wasHere && name !== me) note("joined", name);
	}

	function goes(name) {
		people.delete(name);
		if (name === me || formerly.has(name) || leaving.has(name)) return;
		const tell = () => {
			leaving.delete(name);
			note("left", name);
		};
		leaving.set(name, setTimeout(tell, GRACE_MS));
	}

	function showPeople() {
		const others = [...people]
			.filter((name) => name !== me)
			.sort(collator.compare)
			.slice(0, MAX_LISTED);
		$("here").textContent = words.here(count);
		for (const title of $$(".count")) title.textContent = words.here(count);
		for (const made of $$(".people"))
			made.replaceChildren(
				...[me, ...others].map((name, i) => {
					const person = element(
						"li",
						"",
						avatar(name),
						element("bdi", "name", name),
						i === 0 ? words.you : "",
					);
					person.style.setProperty("--hue", hue(name));
					return person;
				}),
				...(count > others.length + 1 ? [element("li", "", words.others(count - others.length - 1))] : []),
			);
	}
	$("here").onclick = () => $("list").showModal();

	/** Comings and goings that follow each other are one line. */
	function note(what, name) {
		const first = what === "joined" ? firstOf(name) : undefined;
		let line = first ? first.previousElementSibling : lastSaid();
		if (!line?.joined) {
			line = element("li", "notice");
			Object.assign(line, { joined: new Set(), left: new Set() });
			insert(line, first);
		}
		line[what === "joined" ? "left" : "joined"].delete(name);
		line[what].add(name);
		const texts = ["joined", "left"]
			.filter((each) => line[each].size > 0)
			.map((each) => phrase(line[each], words[each]));
		line.replaceChildren(...texts.flatMap((text, i) => (i > 0 ? [" · ", ...text] : text)));
	}

	/** The first message of a client that has just joined: it may come before the news of that. */
	function firstOf(client) {
		let first;
		for (
			let entry = lastSaid();
			entry && !(entry.heardAt < Date.now() - GRACE_MS);
			entry = entry.previousElementSibling
		)
			if (entry.client === client) first = entry;
		return first;
	}

	function phrase(names, verb) {
		const shown = [...names].slice(0, 3);
		if (names.size > 3) shown.push(words.others(names.size - 3));
		const parts = new Intl.ListFormat(language).formatToParts(shown);
		return [
			...parts.map(({ type, value }) => (type === "element" ? element("bdi", "", value) : value)),
			verb,
		];
	}

	// Scrolling

	function toEnd() {
		following = true;
		scroller.scrollTop = scroller.scrollHeight;
		lastTop = scroller.scrollTop;
		showFresh(0);
		seen();
	}

	function showFresh(count) {
		fresh = count;
		$("new").hidden = count === 0;
		$("new").textContent = words.fresh(count);
	}

	scroller.onscroll = () => {
		const nearEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight <= NEAR_END_PX;
		// Only a reader goes up; the end also moves away when messages arrive between two frames.
		if (nearEnd) {
			following = true;
			showFresh(0);
			seen();
		} else if (scroller.scrollTop < lastTop) following = false;
		lastTop = scroller.scrollTop;
		// The top may also be near because what comes on arrival is not all there yet.
		if (nearEnd ? !isHistory : !following) readEarlier();
	};
	$("new").onclick = () => {
		toEnd();
		box.focus();
	};
	const keepAtEnd = new ResizeObserver(() => following && toEnd());
	keepAtEnd.observe(scroller);
	keepAtEnd.observe(list);
	// Some keyboards cover the page rather than shrink it.
	visualViewport?.addEventListener("resize", () => {
		document.documentElement.style.setProperty(
			"--height",
			`${visualViewport.height * visualViewport.scale}px`,
		);
	});

	// What a screen reader says: one sentence per two seconds at most

	const ANNOUNCE_MS = 2_000;
	let unsaid = [];
	let quiet = true;

	function announce(sentence) {
		unsaid.push(sentence);
		if (quiet) sayNext();
	}

	function sayNext() {
		quiet = unsaid.length === 0;
		if (quiet) return;
		$("announcer").textContent = unsaid.length === 1 ? unsaid[0] : words.announceMany(unsaid.length);
		unsaid = [];
		setTimeout(sayNext, ANNOUNCE_MS);
	}

	// What I wrote and the server has not confirmed; a reload keeps it

	const SENDING_AFTER_MS = 300;
	/** By item of the room's outbox, in its order: what is on its way. */
	const pending = new Map();
	/** By the message's id: acknowledged, and next to be heard by everyone. */
	const confirmed = new Map();
	/** What I have to decide about: refused, or nobody knows. */
	const undecided = new Set();

	function keepOutbox() {
		const { session, outbox } = room;
		const kept = {
			me,
			session,
			outbox,
			undecided: [...undecided].map(({ text, sent }) => ({ text, writtenAt: +sent })),
		};
		keep(TAB, `outbox.${roomName}`, JSON.stringify(kept));
	}

	function post(text) {
		expect(room.send(text));
		keepOutbox();
		toEnd();
	}

	function expect(item) {
		item.writtenAt ??= Date.now(); // kept with it
		const entry = draw(me, bubble(item.text), true, item.writtenAt);
		entry.classList.add("pending");
		insert(entry);
		pending.set(item, entry);
		setTimeout(() => pending.has(item) && label(entry, words.sending), SENDING_AFTER_MS);
	}

	function whenAcknowledged({ item, id }) {
		const entry = pending.get(item);
		pending.delete(item);
		keepOutbox();
		if (!entry) return;
		if (id) confirmed.set(id, entry);
		// It was said before, and is heard like any other.
		else remove(entry);
	}

	/** What is not said, or perhaps not: only the writer can decide to say it again. */
	function undecide({ text, writtenAt }, why, entry = draw(me, bubble(text), true, writtenAt)) {
		entry.classList.remove("pending");
		entry.text = text;
		undecided.add(entry);
		insert(entry);
		const drop = () => {
			undecided.delete(entry);
			keepOutbox();
			remove(entry);
			box.focus();
		};
		const again = () => {
			drop();
			post(text);
		};
		label(entry, why, button(words.retry, again), button(words.remove, drop));
	}

	function whenUndecided(item, why) {
		const entry = pending.get(item);
		pending.delete(item);
		undecide(item, why, entry);
		keepOutbox();
	}

	function label(entry, text, ...buttons) {
		entry.querySelector(".state")?.remove();
		if (!text) return;
		const state = element("div", buttons.length ? "state unsure" : "state", text);
		for (const each of buttons) state.append(" ", each);
		entry.append(state);
	}

	// The connection

	const PATIENCE_MS = 2_000;
	const BACK_SHOWN_MS = 4_000;
	const MAX_LOAD_WAIT_MS = 30_000;

	let connect;
	let room;
	/** The last message heard. */
	let after;
	let wasWelcome = false;
	let askTwin = true;
	let isHistory = true;
	/** Messages of others since the welcome. */
	let caughtUp = 0;
	let maxBytes = 65_536;
	/** What the line on top is made of; times in ms, 0 for never. */
	const line = { lostAt: Date.now(), backUntil: 0, back: "", recovered: false, twin: false };

	/** @param before what an earlier connection of this page or tab left: its session and its outbox */
	function open(before) {
		room = connect({ id: me, room: roomName, token: token || undefined, history: 100, after, ...before });
		for (const item of room.outbox) if (!pending.has(item)) expect(item);
		const here = room;
		room
			.on("state", ({ status }) => {
				if (here !== room) return;
				document.documentElement.dataset.state = status;
				line.lostAt = status === "open" ? 0 : line.lostAt || Date.now();
			})
			.on("welcome", whenWelcome)
			.on("message", (message) => {
				after = message.id;
				hear(message);
			})
			.on("replayed", whenReplayed)
			.on("presence", meet)
			.on("acknowledged", whenAcknowledged)
			.on("rejected", ({ item, message }) => whenUndecided(item, words.notSent(message)))
			.on("unconfirmed", (item) => whenUndecided(item, words.unsure));
	}

	/** What was given to a connection may have been said under the old name. */
	function rename() {
		room.close();
		isOwnId = false;
		askTwin = true;
		const items = [...pending.keys()];
		for (const entry of pending.values()) remove(entry);
		pending.clear();
		for (const item of items) if (item.seq !== undefined) undecide(item, words.unsure);
		open({ outbox: items.filter(({ seq }) => seq === undefined) });
		keepOutbox();
	}

	function whenWelcome({ recovered, members, count: now, connections, last, maxMessageBytes }) {
		maxBytes = maxMessageBytes;
		keepOutbox(); // with the numbers that were just given
		after ??= last;
		const here = new Set(members);
		// Of a large room only some are named: of the others nobody knows whether they are still here.
		for (const name of people)
			if (!here.has(name)) {
				if (now <= members.length) goes(name);
				else people.delete(name);
			}
		for (const name of members) comes(name, false);
		count = now;
		showPeople();
		if (wasWelcome && recovered === false) markGap();
		line.recovered = recovered;
		caughtUp = 0;
		line.wasShown = !$("connection").hidden;
		line.twin = askTwin && connections > 1 && !isOwnId && recall(TAB, "twin") !== me;
		askTwin = false;
		showBusy(!wasWelcome);
		wasWelcome = true;
	}

	function whenReplayed() {
		// What is undecided belongs under what was said before.
		if (isHistory) for (const entry of undecided) insert(entry);
		showBusy(false);
		showEmpty();
		if (line.wasShown) line.backUntil = Date.now() + BACK_SHOWN_MS;
		line.back = line.recovered && caughtUp > 0 ? words.caughtUp(caughtUp) : words.back;
		if (following) toEnd();
		readEarlier();
		showConnection();
	}

	function showBusy(busy) {
		isHistory = busy;
		document.querySelector("[role=log]").ariaBusy = busy;
	}

	function markGap() {
		if (!lastSaid()?.classList.contains("gap")) insert(element("li", "notice rule gap", words.gap));
	}

	function showConnection() {
		const { status, reason, retryAt, statusCode, code } = room.state;
		const now = Date.now();
		const seconds = Math.ceil((retryAt - now) / 1000);
		const again = [words.tryNow, () => room.retryNow()];
		if (code === "origin") showLine(words.foreign(location.origin), "", again);
		else if (status === "closed") {
			const problem = (id) => `${words.problems[id]} ${words.nameRule}`;
			if (!isName(me)) showLine(problem("name"), "", [words.choose, chooseName]);
			else if (!isName(roomName)) showLine(problem("room-name"), "", [words.chooseRoom, chooseRoom]);
			else showLine(words.closed?.[statusCode] ?? reason, "", again);
		} else if (line.lostAt && now - line.lostAt >= PATIENCE_MS) {
			const what = wasWelcome ? words.lost : words.notYet;
			if (seconds > 0) showLine(what, words.again(seconds), again);
			else showLine(what, words.connecting);
		} else if (now < line.backUntil) showLine(line.back);
		else if (line.twin) showLine(words.twin(me), "", [words.thatsMe, acceptTwin], [words.choose, chooseName]);
		else $("connection").hidden = true;
	}

	function acceptTwin() {
		keep(TAB, "twin", me);
		line.twin = false;
		showConnection();
		box.focus();
	}

	/** Changes only what has changed: a button may be under a finger, a sentence being read out. */
	function showLine(what, when = "", [action = "", act] = [], [other = "", actOther] = []) {
		$("connection").hidden = false;
		$("connection").className = room?.state.status === "open" ? "calm" : "";
		for (const [id, text] of Object.entries({ what, when, action, other }))
			if ($(id).textContent !== text) $(id).textContent = text;
		$("action").onclick = act;
		$("other").onclick = actOther;
	}

	// A reload keeps what is on its way, closing the tab does not.
	addEventListener("beforeunload", (event) => pending.size > 0 && event.preventDefault());
	// A browser may keep the page, and with it the connection: nobody is here then.
	addEventListener("pagehide", () => room?.close());
	addEventListener("pageshow", ({ persisted }) => persisted && location.reload());

	// The composer

	box.value = recall(TAB, `draft.${roomName}`);
	box.oninput = () => {
		keep(TAB, `draft.${roomName}`, box.value);
		fit();
		explain();
	};
	box.onkeydown = (event) => {
		if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
		event.preventDefault();
		$("composer").requestSubmit();
	};
	$("composer").onsubmit = (event) => {
		event.preventDefault();
		box.focus();
		const text = box.value.toWellFormed();
		if (!room || text.trim() === "" || explain()) return;
		post(text);
		box.value = "";
		keep(TAB, `draft.${roomName}`, "");
		fit();
	};

	/** Says what keeps the text from being sent, if anything does. */
	function explain() {
		const bytes = new TextEncoder().encode(box.value).length;
		const tooLong = bytes > maxBytes;
		$("problem").hidden = !tooLong;
		$("problem").textContent = tooLong ? words.tooLong(kib(bytes), kib(maxBytes)) : "";
		return tooLong;
	}

	function fit() {
		if (CSS.supports("field-sizing", "content")) return;
		box.style.setProperty("height", "auto");
		box.style.setProperty("height", `${box.scrollHeight + 2}px`);
	}

	// Start

	showMe();
	showTitle();
	fit();
	loadClient().then((module) => {
		connect = module.connect;
		me = module.tokenSubject(token) ?? me;
		showMe();
		const kept = JSON.parse(recall(TAB, `outbox.${roomName}`) || "{}");
		// A tab that was duplicated, or closed and opened again, is not the only one to hold these.
		const reloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
		const { session, outbox = [] } = kept;
		open(reloaded && kept.me === me ? { session, outbox } : {});
		for (const item of kept.undecided ?? []) undecide(item, words.unsure);
		if (!reloaded || kept.me !== me) for (const item of outbox) undecide(item, words.unsure);
		keepOutbox();
		showConnection();
		setInterval(showConnection, 250);
	});

	/** While a server is restarted, there may be only a proxy's error page in its place. */
	async function loadClient() {
		for (let attempt = 0; ; attempt++) {
			// A browser does not load again what has failed under the same address.
			const module = await import("../client/client.ts").catch(() => {});
			if (module) return module;
			await new Promise((again) => {
				showLine(words.notYet, "", [words.tryNow, again]);
				addEventListener("online", again, { once: true });
				setTimeout(again, Math.random() * Math.min(MAX_LOAD_WAIT_MS, 1000 * 2 ** attempt));
			});
		}
	}
	if (matchMedia("(hover: hover)").matches) box.focus();
