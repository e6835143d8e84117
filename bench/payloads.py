"""Trace payloads of a web shop, as a tracer of today sends them: v0.4, about 500 bytes a span.

A trace is a request to a web service and what it did: a view, a template, three SQL queries, two
Redis commands and two HTTP requests to other services. Tags are those that ddtrace 4 and
dd-trace-js 5 write. Two of three queries are parameterised, as an ORM writes them, and come again;
the third carries its literals, and none comes twice. Ids, times, durations and what users ask for
come from a generator with a fixed seed: every body is different, and every run has the same ones.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Span = dict[str, Any]

START_NS = 1_790_000_000_000_000_000
# How far apart the traces of one tracer begin, and its spans.
TRACE_GAP_NS_MAX = 9_000_000
SPAN_GAP_NS_MAX = 700_000

# Of a trace with ten spans those that the agent counts: all but the view and the template.
ELIGIBLE_SHARE = 0.8

SERVICE = "storefront"
VERSION = "2026.11.3-4f1c2ab"

ROUTES = (
    ("GET", "/api/v2/products/{id}", "storefront.views.ProductDetail"),
    ("GET", "/api/v2/products", "storefront.views.ProductList"),
    ("GET", "/api/v2/carts/{id}", "storefront.views.CartDetail"),
    ("POST", "/api/v2/carts/{id}/items", "storefront.views.CartItems"),
    ("DELETE", "/api/v2/carts/{id}/items/{id}", "storefront.views.CartItem"),
    ("POST", "/api/v2/orders", "storefront.views.OrderList"),
    ("GET", "/api/v2/orders/{id}", "storefront.views.OrderDetail"),
    ("GET", "/api/v2/customers/{id}/orders", "storefront.views.CustomerOrders"),
)

# As an ORM sends them: the values travel apart.
QUERIES = (
    'SELECT "product"."id", "product"."sku", "product"."name", "product"."price" '
    'FROM "product" WHERE "product"."id" = %s LIMIT 21',
    'SELECT "cart"."id", "cart"."customer_id", "cart"."updated_at" FROM "cart" '
    'WHERE ("cart"."customer_id" = %s AND "cart"."closed" = %s) ORDER BY "cart"."id" DESC',
    'SELECT COUNT(*) AS "__count" FROM "order_line" INNER JOIN "order" ON '
    '("order_line"."order_id" = "order"."id") WHERE "order"."customer_id" = %s',
    'UPDATE "cart" SET "updated_at" = %s, "currency" = %s WHERE "cart"."id" = %s',
    'INSERT INTO "order_line" ("order_id", "product_id", "quantity", "price") '
    'VALUES (%s, %s, %s, %s) RETURNING "order_line"."id"',
    'SELECT "session"."key", "session"."data" FROM "session" WHERE "session"."key" = %s',
)

# Written by hand, with the values in them; 70 to 130 characters.
LITERAL_QUERIES = (
    "SELECT price, stock FROM offers WHERE sku = 'SKU-{0}' AND region = 'eu-{1}'",
    "SELECT id, total FROM orders WHERE customer_id = {0} AND state IN ('open', 'paid', 'sent') "
    "AND total > {1}.50",
    "UPDATE visits SET seen = {0}, page = '/products/{1}' WHERE visitor = 'v{0}'",
    "SELECT name FROM customers c JOIN addresses a ON a.customer = c.id WHERE c.email = "
    "'user{0}@example.com' LIMIT 10",
)

COMMANDS = (
    ("GET", "GET session:{0:x}"),
    ("SETEX", "SETEX cart:{0} 3600 {1:x}"),
    ("HGETALL", "HGETALL product:{0}"),
    ("INCRBY", "INCRBY visits:{0} 1"),
    ("MGET", "MGET price:{0} price:{1}"),
)

PARTNERS = (
    ("GET", "inventory.shop.internal", "/v1/stock/{0}?warehouse=fra-{1}"),
    ("POST", "payments.shop.internal", "/v1/charges?idempotency_key=ch_{0:x}"),
    ("GET", "pricing.shop.internal", "/v3/quotes/{0}/lines?currency=EUR&customer={1}"),
    ("GET", "images.example-cdn.com", "/t/{0}/600x600.webp?sig={1:x}"),
)

AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15",
    "okhttp/5.1.0",
)


class Traffic:
    """An endless stream of traces; the same one for the same seed."""

    def __init__(self, seed: int = 1) -> None:
        self._random = Random(seed)
        self._now_ns = START_NS
        self._runtime_id = f"{self._random.getrandbits(128):032x}"

    def body(self, traces: int = 100, spans_each: int = 10) -> bytes:
        """The body of one request."""
        return msgspec.msgpack.encode([self.trace(spans_each) for _ in range(traces)])

    def bodies(self, count: int, traces: int = 100, spans_each: int = 10) -> list[bytes]:
        """Several, all different."""
        return [self.body(traces, spans_each) for _ in range(count)]

    def trace(self, spans: int = 10) -> list[Span]:
        """One request to the web service; one span is the request alone."""
        random = self._random
        self._now_ns += random.randrange(TRACE_GAP_NS_MAX)
        trace_id = random.getrandbits(64)
        root = self._span(trace_id, 0, *self._request())
        self._complete_root(root)
        trace = [root]
        kinds = self._kinds()
        parent_id = root["span_id"]
        for _ in range(spans - 1):
            span = self._span(trace_id, parent_id, *next(kinds)())
            if span["name"] == "django.view":
                parent_id = span["span_id"]
            trace.append(span)
        return trace

    def _kinds(self) -> Iterator[Callable[[], tuple[Any, ...]]]:
        while True:
            yield from (self._view, self._query, self._command, self._query, self._literal_query)
            yield from (self._call, self._command, self._call, self._template)

    def _span(
        self,
        trace_id: int,
        parent_id: int,
        name: str,
        service: str,
        resource: str,
        span_type: str,
        meta: dict[str, str],
        metrics: dict[str, float],
    ) -> Span:
        """A span with what every span has, its keys in ddtrace's order."""
        random = self._random
        self._now_ns += random.randrange(SPAN_GAP_NS_MAX)
        span: Span = {"trace_id": trace_id, "span_id": random.getrandbits(64)}
        if parent_id:
            span["parent_id"] = parent_id
        span |= {
            "service": service,
            "resource": resource,
            "name": name,
            "start": self._now_ns,
            "duration": int(random.lognormvariate(14, 1.3)),
        }
        if random.random() < 0.01:
            span["error"] = 1
            meta |= {"error.type": "builtins.TimeoutError", "error.message": "timed out"}
        if span_type:
            span["type"] = span_type
        span["meta"] = {
            **meta,
            "env": "production",
            "version": VERSION,
            "language": "python",
            "runtime-id": self._runtime_id,
        }
        if service != SERVICE:
            span["meta"]["_dd.base_service"] = SERVICE
        span["metrics"] = {**metrics, "process_id": 4711}
        return span

    def _complete_root(self, root: Span) -> None:
        seconds = root["start"] // 1_000_000_000
        root["meta"] |= {"_dd.p.dm": "-1", "_dd.p.tid": f"{seconds:08x}00000000"}
        root["metrics"] |= {
            "_dd.top_level": 1,
            "_dd.tracer_kr": 1.0,
            "_dd.agent_psr": 1.0,
            "_sampling_priority_v1": 1,
        }

    # What the spans say; each returns name, service, resource, type, meta, metrics

    def _request(self) -> tuple[Any, ...]:
        random = self._random
        method, route, view = random.choice(ROUTES)
        path = route
        while "{id}" in path:
            path = path.replace("{id}", str(random.randrange(10**7)), 1)
        meta = {
            "component": "django",
            "span.kind": "server",
            "http.method": method,
            "http.url": f"https://shop.example.com{path}?page={random.randrange(40)}",
            "http.route": route,
            "http.status_code": random.choice(("200", "200", "200", "204", "302", "404")),
            "http.useragent": random.choice(AGENTS),
            "django.view": view,
            "http.client_ip": f"203.0.113.{random.randrange(256)}",
        }
        return "django.request", SERVICE, f"{method} {route}", "web", meta, {"_dd.measured": 1}

    def _view(self) -> tuple[Any, ...]:
        view = self._random.choice(ROUTES)[2]
        meta = {"component": "django", "django.view": view, "django.user.is_authenticated": "True"}
        return "django.view", SERVICE, view, "", meta, {}

    def _template(self) -> tuple[Any, ...]:
        name = f"storefront/{self._random.choice(('list', 'detail', 'cart'))}.html"
        meta = {"component": "django", "django.template.name": name}
        return "django.template.render", SERVICE, name, "template", meta, {}

    def _query(self) -> tuple[Any, ...]:
        return self._database(self._random.choice(QUERIES))

    def _literal_query(self) -> tuple[Any, ...]:
        random = self._random
        query = random.choice(LITERAL_QUERIES)
        return self._database(query.format(random.randrange(10**8), random.randrange(10**4)))

    def _database(self, query: str) -> tuple[Any, ...]:
        meta = {
            "component": "psycopg",
            "span.kind": "client",
            "db.system": "postgresql",
            "db.name": "shop",
            "db.user": "storefront",
            "out.host": "orders-db.shop.internal",
        }
        metrics = {
            "_dd.measured": 1,
            "_dd.top_level": 1,
            "network.destination.port": 5432,
            "db.row_count": self._random.randrange(50),
        }
        return "postgres.query", "postgres", query, "sql", meta, metrics

    def _command(self) -> tuple[Any, ...]:
        random = self._random
        resource, text = random.choice(COMMANDS)
        raw = text.format(random.randrange(10**9), random.randrange(10**9))
        meta = {
            "component": "redis",
            "span.kind": "client",
            "db.system": "redis",
            "redis.raw_command": raw,
            "out.host": "cache-1.shop.internal",
        }
        metrics = {
            "_dd.measured": 1,
            "_dd.top_level": 1,
            "network.destination.port": 6379,
            "out.redis_db": 0,
            "redis.args_length": raw.count(" ") + 1,
        }
        return "redis.command", "redis", resource, "redis", meta, metrics

    def _call(self) -> tuple[Any, ...]:
        random = self._random
        method, host, path = random.choice(PARTNERS)
        target = path.format(random.randrange(10**8), random.randrange(10**6))
        meta = {
            "component": "requests",
            "span.kind": "client",
            "http.method": method,
            "http.url": f"https://{host}{target}",
            "http.status_code": random.choice(("200", "200", "200", "201", "404")),
            "http.useragent": "python-requests/2.32.5",
            "out.host": host,
        }
        return "requests.request", SERVICE, method, "http", meta, {"_dd.measured": 1}


def average_span_bytes() -> float:
    """Of a span in a body of 100 traces with 10 spans."""
    return len(Traffic().body()) / 1000


if __name__ == "__main__":
    print(f"{average_span_bytes():.0f} bytes a span, encoded")
