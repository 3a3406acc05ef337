"""Answers "echo TEXT" with TEXT, exactly once, however often the bot or the server is killed and started again.
    python3 bot.py http://localhost:8000 lobby     # needs the Debian package python3-websockets"""
import asyncio, json, sys, uuid, websockets
from pathlib import Path
SERVER, ROOM = sys.argv[1:]
FILE = Path("bot-state.json")  # the session, the last seq stored in it, and the last message dealt with
state = json.loads(FILE.read_text()) if FILE.exists() else {"session": uuid.uuid4().hex, "seq": 0, "after": ""}

def save(**changes):
    state.update(changes)
    FILE.with_suffix(".new").write_text(json.dumps(state))
    FILE.with_suffix(".new").replace(FILE)  # never an incomplete file

async def converse(socket):
    inbox = []  # messages to deal with; an answer to the first is sent, but not acknowledged
    async for frame in socket:
        event = json.loads(frame)
        if event["type"] == "welcome" and not event["recovered"]:
            save(after=event["last"])
        elif event["type"] == "message":
            inbox.append(event)
        elif event["type"] == "ack":  # until this is saved, the same answer is sent with the same seq
            save(seq=event["seq"], after=inbox.pop(0)["id"])
        elif event["type"] == "error":
            return print(event["message"], file=sys.stderr)  # such as rate-limited: try again later
        while inbox and not inbox[0].get("text", "").startswith("echo "):
            save(after=inbox.pop(0)["id"])
        if inbox and (event["type"] == "ack" or event is inbox[0]):
            await socket.send(json.dumps({"type": "message", "text": inbox[0]["text"][5:], "seq": state["seq"] + 1}))

async def main():
    while True:
        query = f"room={ROOM}&session={state['session']}&after={state['after']}&history=0"
        try:
            async with websockets.connect(f"ws{SERVER[4:]}/ws/parrot?{query}", subprotocols=["hubbub.v1"]) as socket:
                await converse(socket)
        except (OSError, asyncio.TimeoutError, websockets.WebSocketException) as error:
            print(error, file=sys.stderr)
        await asyncio.sleep(1)
asyncio.run(main())
