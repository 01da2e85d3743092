"""Packet-level scenarios against the TCP of a host: wire.py INTERFACE MAC PEER_MAC ADDRESS PEER CONTROL [NAME...]

ADDRESS is one that no host has: its segments are made here, frame by frame. On PEER `puppet.py CONTROL` makes the socket
calls. Prints what happened; the same scenarios against two implementations are compared line by line."""

import importlib
import os
import sys

from peer import Wire
from stage import Stage, open_control

GROUPS = (
    "opening", "receiving", "closing", "strange", "congested", "dice", "recovery", "details", "states", "windows", "growth",
    "calls", "sending",
)  # fmt: skip

interface, mac, peer_mac, address, peer, path = sys.argv[1:7]
wanted = sys.argv[7:]
wire = Wire(interface, mac, peer_mac, address, peer)
control = open_control(path)
for first, group in enumerate(GROUPS):
    number = first * 80 + int(os.environ.get("WIRE_NUMBER", 0))
    module = importlib.import_module(group)
    for name, scenario in vars(module).items():
        if getattr(scenario, "__module__", None) != group or name.startswith("_") or not callable(scenario):
            continue
        number += 1
        if wanted and not any(word in f"{group}.{name}" for word in wanted):
            continue
        stage = Stage(wire, control, number)
        print(f"== {group}.{name}", flush=True)
        try:
            scenario(stage)
        except Exception as e:  # noqa: BLE001: shown and compared like everything else
            stage.say(f"  ! {type(e).__name__} {e}")
        stage.end()
        print("\n".join(stage.lines), flush=True)
