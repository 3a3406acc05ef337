/** `hubbub join URL` on a terminal, as two people see it. */

import { expect, test } from "bun:test";
import { Screen } from "../support/screen.ts";
import { startServer, type TestServer } from "../support/server.ts";

const ENTER = "\r";
const UP = "\x1b[A";
const HOME = "\x1b[H";
const [CTRL_C, CTRL_D] = ["\x03", "\x04"];

/** The time of each line reads 12:34. */
class JoinScreen extends Screen {
  override get text(): string {
    return super.text.replace(/^\d\d:\d\d /gm, "12:34 ").replace(/localhost:\d+/, "localhost");
  }
}

function joinOn(server: Pick<TestServer, "port">, query: string, columns = 80): JoinScreen {
  const program = [process.execPath, `${import.meta.dir}/../../src/server.ts`];
  return new JoinScreen([...program, "join", `http://localhost:${server.port}/client?${query}`], columns);
}

test("two people: who I am and where, history, joins and leaves, each message once with its time", async () => {
  await using server = await startServer();
  await using carl = await server.join("carl", { room: "tea" });
  carl.says("earlier\n\x1b[2Jtwo lines");
  await carl.hearsUpTo("You wrote: earlier\n\x1b[2Jtwo lines");
  await carl.leaves();
  using ann = joinOn(server, "room=tea&id=ann");
  const start = `
You are ann in tea at http://localhost. Ctrl+D leaves.
12:34 carl: earlier
    \\u001b[2Jtwo lines
Nobody else is here.
`;
  await ann.shows(`${start}> |`);
  using bob = joinOn(server, "room=tea&id=bob");
  await bob.shows(`${start.replace("ann", "bob").replace("Nobody else is here.", "Also here: ann")}> |`);
  await ann.shows(`${start}12:34 bob joined\n> |`);
  ann.types(`hi${ENTER}${ENTER}`);
  await ann.shows(`${start}12:34 bob joined\n12:34 ann: hi\n> |`);
  bob.types(`ho${ENTER}`);
  await ann.shows(`${start}12:34 bob joined\n12:34 ann: hi\n12:34 bob: ho\n> |`);
  bob.types(CTRL_D);
  expect(await bob.exited).toBe(0);
  await ann.shows(`${start}12:34 bob joined\n12:34 ann: hi\n12:34 bob: ho\n12:34 bob left\n> |`);
  ann.types(UP);
  await ann.shows(`${start}12:34 bob joined\n12:34 ann: hi\n12:34 bob: ho\n12:34 bob left\n> hi|`);
  ann.types(CTRL_C);
  expect(await ann.exited).toBe(130);
});

test("a message that arrives does not break the line being typed, however long it is and wherever the cursor", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  using ann = joinOn(server, "id=ann", 30);
  await ann.shows("Also here: bob\n> |");
  ann.types("twenty-eight columns exactly");
  await ann.shows("Also here: bob\n> twenty-eight columns exactly\n|");
  bob.says("1");
  await ann.shows("Also here: bob\n12:34 bob: 1\n> twenty-eight columns exactly\n|");
  ann.types(", and more");
  await ann.shows("12:34 bob: 1\n> twenty-eight columns exactly\n, and more|");
  bob.says("2");
  await ann.shows("12:34 bob: 1\n12:34 bob: 2\n> twenty-eight columns exactly\n, and more|");
  ann.types(HOME);
  await ann.shows("12:34 bob: 2\n> |twenty-eight columns exactly\n, and more");
  bob.says("a message that takes two rows");
  const above = "12:34 bob: 2\n12:34 bob: a message that take\ns two rows\n";
  await ann.shows(`${above}> |twenty-eight columns exactly\n, and more`);
  ann.types("語");
  await ann.shows(`${above}> 語|twenty-eight columns exact\nly, and more`);
  ann.types(ENTER);
  await ann.shows(`${above}12:34 ann: 語twenty-eight colu\nmns exactly, and more\n> |`);
  ann.types(`pasted\nin two lines\n`);
  await ann.shows(`mns exactly, and more\n12:34 ann: pasted\n12:34 ann: in two lines\n> |`);
  const long = "x".repeat(28);
  ann.types(long + ENTER);
  await ann.shows(`12:34 ann: in two lines\n12:34 ann: ${"x".repeat(19)}\n${"x".repeat(9)}\n> |`);
});

test("while the connection is lost, what was written waits; Ctrl+D sends it before it leaves", async () => {
  const first = await startServer();
  using ann = joinOn(first, "id=ann");
  await ann.shows("Nobody else is here.\n> |");
  await first.stop();
  await ann.shows("Connection lost, retrying.\n> |");
  ann.types(`one${ENTER}two${ENTER}thr`);
  await ann.shows("Connection lost, retrying.\n(2 waiting) > thr|");
  ann.types(`ee${ENTER}${CTRL_D}`);
  await ann.shows("Waiting for the connection, to send what you wrote. Ctrl+C gives up.\n|");
  await using second = await startServer({ args: ["--port", `${first.port}`] });
  await using bob = await second.join("bob", { history: 3 });
  for (const text of ["one", "two", "three"]) await bob.hearsUpTo(`Client #ann says: ${text}`);
  expect(await ann.exited).toBe(0);
}, 240_000);

test("after the server has restarted, who returns has not joined, and who is new has", async () => {
  const first = await startServer();
  using ann = joinOn(first, "id=ann");
  await ann.shows("Nobody else is here.\n> |");
  await first.join("bob");
  await ann.shows("12:34 bob joined\n> |");
  await first.stop();
  await ann.shows("Connection lost, retrying.\n> |");
  await using second = await startServer({ args: ["--port", `${first.port}`] });
  await ann.shows("Connected.\nSome messages may be missing here.\n> |");
  await second.join("bob");
  await second.join("carl");
  await ann.shows("Some messages may be missing here.\n12:34 carl joined\n> |");
});

test("a rejection of the client, and of a message, is a sentence", async () => {
  await using server = await startServer({ args: ["--max-message-bytes", "5"] });
  using eve = joinOn(server, "id=%1b[2J&room=a%20b");
  expect(await eve.exited).toBe(1);
  expect(eve.text).toBe(
    `You are \\u001b[2J in a b at http://localhost. Ctrl+D leaves.
A client id is 1 to 64 letters, digits, "_", "-" or ".": choose another one.
|`,
  );
  using ann = joinOn(server, "id=ann");
  await ann.shows("Nobody else is here.\n> |");
  ann.types(`too long${ENTER}short${ENTER}`);
  await ann.shows("Not sent: too long\nThe message is too large for this server.\n12:34 ann: short\n> |");
});
