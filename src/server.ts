#!/usr/bin/env bun
/**
 * Hubbub: the chat server of the "WebSockets in FastAPI" tutorial, made dependable.
 *
 * The entry point: parses the command line and runs the command. README.md beside this file has the map of the source:
 * the path of a message, the folders, and where to find what.
 */

import { version } from "../package.json";
import { isOnTerminal, printBanner } from "./cli/banner.ts";
import { parseCommand, type CliOptions } from "./cli/parse-command.ts";
import { explainStartError } from "./cli/start-error.ts";
import { serve } from "./http/serve.ts";
import { installSignalHandlers, type RunningServer } from "./http/shutdown.ts";
import { configureLog, logError } from "./ops/log.ts";
import { measured } from "./store/measured.ts";
import { loadStore } from "./store/open.ts";
import { systemClock } from "./util/clock.ts";
import { systemRandom } from "./util/random.ts";

const command = parseCommand(process.argv.slice(2), process.env);
switch (command.kind) {
  case "help":
    console.log((await import("./cli/help.ts")).helpText(command.about));
    break;
  case "version":
    console.log(version);
    break;
  case "join": {
    const { runJoin } = await import("./cli/join.ts");
    process.exit(await runJoin(command.address, command.token, systemClock, systemRandom));
    break;
  }
  case "token":
    console.log((await import("./cli/token.ts")).tokenUrl(command, systemClock));
    break;
  case "export": {
    const { runExport } = await import("./cli/transfer.ts");
    process.exit(await runExport(command, systemClock, systemRandom));
    break;
  }
  case "import": {
    const { runImport } = await import("./cli/transfer.ts");
    process.exit(await runImport(command, systemClock, systemRandom));
    break;
  }
  case "health":
    process.exit(await (await import("./cli/health.ts")).runHealth(command));
    break;
  case "invalid":
    for (const error of command.errors) console.error(error);
    process.exit(2);
    break;
  case "serve": {
    process.on("uncaughtException", (error) => logError("Unexpected error", error));
    process.on("unhandledRejection", (error) => logError("Unexpected error", error));
    for (const warning of command.warnings) console.error(warning);
    configureLog(command.options.log, systemClock);
    const running = await start(command.options);
    await printBanner(version, running, command.options);
    installSignalHandlers(running, isOnTerminal());
    break;
  }
  default:
    command satisfies never;
}

async function start(options: CliOptions): Promise<RunningServer> {
  try {
    const createStore = await loadStore(options.store);
    return await serve(
      options,
      (listener) => measured(createStore(options, listener, systemClock, systemRandom), systemClock),
      systemClock,
      systemRandom,
    );
  } catch (error) {
    const { sentence, exitCode } = explainStartError(error, options);
    if (sentence) console.error(sentence);
    else logError("Startup failed", error);
    process.exit(exitCode);
  }
}
