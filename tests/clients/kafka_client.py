"""Asks a pipeline through a topic with Confluent's client of Kafka, and waits for the replies in a topic of its own."""

import sys

from confluent_kafka import Consumer, Producer

servers, questions, replies, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
for number in range(count):
    headers = [("correlation-id", str(number)), ("reply-to", replies)]
    value = '{"at": "2026-01-02T00:00:00Z", "sensor": "s", "heat": %d}' % (number % 40)
    producer.produce(questions, value, key=str(number), headers=headers)
assert producer.flush(30) == 0
consumer = Consumer({"bootstrap.servers": servers, "group.id": replies, "isolation.level": "read_committed", "auto.offset.reset": "earliest"})
consumer.subscribe([replies])
said = {}
while len(said) < count:
    message = consumer.poll(30)
    assert message is not None and message.error() is None, f"{len(said)} of {count} replies: {message and message.error()}"
    headers = dict(message.headers())
    assert headers.keys() == {"correlation-id"}, headers
    number = headers["correlation-id"].decode()
    assert number not in said and message.key().decode() == number, number
    said[number] = message.value()
consumer.close()
print("confluent-kafka:", said["0"].decode())
