/** `hubbub join URL`: the client in a pipe, with the server coming and going. */

import { expect, test } from "bun:test";
import { startHubbub, type Hubbub } from "./hubbub.ts";

function join(hub: Hubbub, query: string, more: { USER?: string } = {}) {
  const command = [
    process.execPath,
    `${import.meta.dir}/../src/server.ts`,
    "join",
    `${hub.origin}/client?${query}`,
  ];
  const run = Bun.spawn(command, {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...more },
  });
  return {
    says: (line: string) => {
      run.stdin.write(`${line}\n`);
      void run.stdin.flush();
    },
    /** Bytes as they are, without an end of a line. */
    writes: (text: string) => void run.stdin.write(text),
    /** Ends the input; then everything that was printed, and the exit code. */
    async ends() {
      void run.stdin.end();
      const [out, errors, exitCode] = await Promise.all([
        new Response(run.stdout).text(),
        new Response(run.stderr).text(),
        run.exited,
      ]);
      return { out, errors, exitCode };
    },
  };
}

test("lines typed go out, lines come in, and at the end of the input everything is acknowledged", async () => {
  await using hub = await startHubbub();
  await using bob = await hub.join("bob", { room: "builds" });
  const ann = join(hub, "room=builds&id=ann");
  for (let i = 0; i < 500; i++) ann.says(`line ${i}`);
  for (let i = 0; i < 500; i++) await bob.hears(`Client #ann says: line ${i}`);
  bob.says("tab\there \x1b[31mred\x1b[0m\nsecond \u202eline");
  await bob.hearsUpTo("You wrote: tab\there \x1b[31mred\x1b[0m\nsecond \u202eline");
  ann.says("last");
  const { out, errors, exitCode } = await ann.ends();
  expect({ errors, exitCode }).toEqual({ errors: "", exitCode: 0 });
  const lines = out.split("\n");
  expect(lines.slice(0, 500)).toEqual(Array.from({ length: 500 }, (_, i) => `ann: line ${i}`));
  expect(out).toEndWith("bob: tab\there \\u001b[31mred\\u001b[0m\n    second \\u202eline\nann: last\n");
});

test("a line ends where everyone else ends one, and the last one needs no end", async () => {
  await using hub = await startHubbub();
  await using bob = await hub.join("bob");
  const ann = join(hub, "id=ann");
  ann.writes("one\u2028still one\r\n\ntwo");
  const { out, exitCode } = await ann.ends();
  expect([out, exitCode]).toEqual(["ann: one\\u2028still one\nann: \nann: two\n", 0]);
  for (const text of ["one\u2028still one", "", "two"]) await bob.hears(`Client #ann says: ${text}`);
});

test("it survives a restart of the server and loses nothing that comes after", async () => {
  const first = await startHubbub();
  const ann = join(first, "id=ann");
  await using bob = await first.join("bob");
  ann.says("before");
  await bob.hears("Client #ann says: before");
  await first.stop();
  for (let i = 0; i < 100; i++) ann.says(`meanwhile ${i}`);
  await using second = await startHubbub({ args: ["--port", `${first.port}`] });
  await using eve = await second.join("eve");
  for (let i = 0; i < 100; i++) await eve.hears(`Client #ann says: meanwhile ${i}`);
  const { out, errors, exitCode } = await ann.ends();
  expect({ errors, exitCode }).toEqual({ errors: "Some messages may be missing here.\n", exitCode: 0 });
  expect(out.split("\n")[0]).toBe("ann: before");
});

test("what the server does not take is said in a sentence, and exit 1", async () => {
  await using hub = await startHubbub();
  expect(await join(hub, "id=a%20b").ends()).toEqual({
    out: "",
    errors: 'A client id is 1 to 64 letters, digits, "_", "-" or ".": choose another one.\n',
    exitCode: 1,
  });
  await using bob = await hub.join("bob");
  const ann = join(hub, "id=ann");
  ann.says("x".repeat(65_537));
  ann.says("what follows is said all the same");
  const { errors, exitCode } = await ann.ends();
  expect(exitCode).toBe(1);
  await bob.hears("Client #ann says: what follows is said all the same");
  expect(errors).toBe(
    `Not sent: ${"x".repeat(65_537)}\nIt is bigger than this server takes: send less at a time.\n`,
  );
});

test("who speaks is the user, when the address does not say", async () => {
  await using hub = await startHubbub();
  await using bob = await hub.join("bob");
  const ann = join(hub, "", { USER: "ann" });
  ann.says("hi");
  await bob.hears("Client #ann says: hi");
  expect((await ann.ends()).exitCode).toBe(0);
});
