#!/usr/bin/env bun
/** Runs the command. */

import "./http/serve.ts";
