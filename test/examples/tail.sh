#!/bin/sh
# Publishes each line that is appended to a log file from now on:
#     CHAT=http://localhost:8000 ./tail.sh build.log
# hubbub join sends a line again until the server has stored it. With -F, tail follows the name when the log is rotated.

set -u
chat=${CHAT:-http://localhost:8000}
log=${1:?usage: tail.sh FILE}

tail -n 0 -F "$log" | hubbub join "$chat/client?room=builds&id=ci" >/dev/null
