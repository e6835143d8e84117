"""A small shop's store room under ddtrace-run: databases, Redis and queues, and nothing it says.

The servers are those of tests/corpus/servers.py. Everything a span of this program may hide is
one of the secrets below. Nothing of the kit is imported here: this runs as any application does.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

import kombu
import psycopg
import pymysql
import redis
import rq
from celery import Celery
from celery.contrib.testing.worker import start_worker
from ddtrace.trace import tracer

HOST = "127.0.0.1"
NAME = "shop"

SECRET = "hunter2-secret"
CARD = "4111111111111111"


def port(server: str) -> int:
    return int(os.environ[f"SHOP_{server}_PORT"])


def use_sqlite() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, card TEXT)")
        cursor.executemany(
            "INSERT INTO users (name, card) VALUES (?, ?)", [("a", CARD), ("b", SECRET)]
        )
        cursor.execute(f"SELECT id, name FROM users WHERE card = '{CARD}' AND id IN (1, 2, 3)")
        cursor.fetchall()
        connection.commit()
        with contextlib.suppress(sqlite3.OperationalError):
            cursor.execute(f"SELECT nothing FROM nowhere WHERE token = '{SECRET}'")


def use_postgres() -> None:
    place = {"host": HOST, "port": port("POSTGRES"), "user": NAME, "dbname": NAME}
    with psycopg.connect(**place) as connection, connection.cursor() as cursor:
        cursor.execute('CREATE TABLE "user orders" (id serial, note text, tags text[])')
        cursor.execute(
            f"""INSERT INTO "user orders" (note, tags) -- written {SECRET} by hand
            VALUES ($tag$it's {SECRET}$tag$, ARRAY['a', 'b']), (E'\\'{SECRET}', NULL)"""
        )
        cursor.execute(
            'WITH recent AS (SELECT * FROM "user orders" WHERE note = %s::text LIMIT 5) '
            "SELECT count(*) FROM recent WHERE id BETWEEN 1 AND 1.5e1",
            [SECRET],
        )
        cursor.fetchall()
        with contextlib.suppress(psycopg.Error):
            cursor.execute(f"SELEC '{SECRET}'")


def use_mysql() -> None:
    place = {"host": HOST, "port": port("MYSQL"), "user": NAME, "password": NAME}
    with contextlib.closing(pymysql.connect(**place, database=NAME)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE `order lines` (id INT, price DOUBLE, note TEXT)")
            cursor.execute(
                "INSERT INTO `order lines` VALUES (%s, %s, %s)", (1, 2.5e3, f'a "{SECRET}"')
            )
            cursor.execute(
                f'SELECT /* {SECRET} */ id FROM `order lines` WHERE note LIKE "%{SECRET}%" # end'
            )
            cursor.fetchall()
        connection.rollback()


def use_redis() -> None:
    client = redis.Redis(HOST, port("REDIS"))
    client.set("user:1", SECRET, ex=60)
    client.get("user:1")
    client.hset("user:2", mapping={"name": SECRET, "card": CARD})
    client.mget(["user:1", "user:2", "nobody"])
    with client.pipeline() as pipeline:
        pipeline.incr("visits").expire("visits", 30).lpush("log", SECRET, "second line\nof it")
        pipeline.execute()
    client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, "scripted", SECRET)
    with contextlib.suppress(redis.RedisError):
        client.execute_command("AUTH", NAME, SECRET)
    client.close()


def use_kombu() -> None:
    # In memory, and over AMQP.
    for url in ("memory://", f"amqp://guest:guest@{HOST}:{port('AMQP')}//"):
        with kombu.Connection(url) as connection:
            queue = kombu.Queue("parcels", kombu.Exchange("parcels"), routing_key="parcels")
            producer = connection.Producer()
            producer.publish({"to": SECRET}, routing_key="parcels", exchange=queue.exchange,
                             declare=[queue])  # fmt: skip
            with connection.Consumer(queue, callbacks=[lambda _, message: message.ack()]):
                connection.drain_events(timeout=10)


def pack(parcel: str) -> str:
    return parcel.upper()


def lose(parcel: str) -> None:
    raise LookupError(f"{len(parcel)} letters are lost")


def use_celery() -> None:
    app = Celery("store", broker="memory://", backend="cache+memory://")
    tasks = [app.task(name=f"store.{each.__name__}")(each) for each in (pack, lose)]
    with start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=30):
        assert tasks[0].delay(SECRET).get(timeout=10) == SECRET.upper()
        with contextlib.suppress(LookupError):
            tasks[1].delay(SECRET).get(timeout=10)


def use_rq() -> None:
    client = redis.Redis(HOST, port("REDIS"))
    queue = rq.Queue("parcels", connection=client)
    queue.enqueue("store.pack", SECRET)
    queue.enqueue("store.lose", SECRET)
    rq.SimpleWorker([queue], connection=client).work(burst=True, logging_level="ERROR")
    client.close()


# rq has everything sent that is finished, so it is visited alone.
VISITS = {
    "store": (use_sqlite, use_postgres, use_mysql, use_redis, use_kombu, use_celery),
    "jobs": (use_rq,),
}


def main() -> None:
    for use in VISITS[os.environ["SHOP_VISIT"]]:
        with tracer.trace("store.visit", resource=use.__name__):
            use()
    tracer.shutdown(timeout=10)
    print("[]")


if __name__ == "__main__":
    main()
