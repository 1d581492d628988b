"""Reads what `kcat -J` prints of the topic with the SDK of CloudEvents, as any consumer may, and prints the events of one
tenant as JSON, each once. It fails where a message is no CloudEvent, or not under its tenant's key."""

import json
import sys

from cloudevents.core.bindings.kafka import KafkaMessage, from_structured_event


def parse(line):
    read = json.loads(line)
    names, values = read["headers"][0::2], read["headers"][1::2]
    headers = {name: value.encode() for name, value in zip(names, values)}
    key = read["key"].encode() if read["key"] is not None else None
    message = KafkaMessage(headers=headers, key=key, value=read["payload"].encode())
    return read, from_structured_event(message)


def main(tenant):
    events, last = [], 0
    for line in sys.stdin:
        read, event = parse(line)
        attributes = event.get_attributes()
        for name, value in attributes.items():
            assert name.isalnum() and name.islower(), f"no name of CloudEvents: {name}"
            assert not isinstance(value, (dict, list)), f"no value of CloudEvents: {name}"
        if event.get_type() == "annals.heartbeat":
            assert read["key"] is None
            continue
        assert event.get_source() == f"/tenants/{read['key']}", f"another key than the tenant: {read['key']}"
        assert event.get_time().tzinfo is not None
        if read["key"] != tenant:
            continue
        position = int(attributes["annalsposition"])
        if position > last:
            last = position
            shown = {name: value if isinstance(value, str) else str(value) for name, value in attributes.items()}
            events.append({**shown, "data": event.get_data()})
    json.dump(events, sys.stdout)


main(sys.argv[1])
