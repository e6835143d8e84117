'use strict'

// A small shop under dd-trace: serves a few requests it makes itself and says what it traced.
//
// Its last line is a JSON list of the spans it made by hand, as it made them. The spans of the
// HTTP server and client around them are the tracer's own. Ids are decimal strings, because a
// number here holds 53 bits.

const tracer = require('dd-trace').init()
const http = require('node:http')

const made = []

function trace (name, fields, work) {
  const { resource, service, type, childOf } = fields
  const options = { resource, service, type, childOf }
  return tracer.trace(name, options, (span) => {
    span.addTags({ ...fields.meta, ...fields.metrics })
    const note = {
      trace_id: span.context().toTraceId(),
      span_id: span.context().toSpanId(),
      parent_id: span.context()._parentId?.toString(10) ?? '0',
      service: service ?? process.env.DD_SERVICE,
      name,
      resource,
      type: type ?? '',
      error: 0,
      meta: fields.meta ?? {},
      metrics: fields.metrics ?? {},
      span_links: [],
      span_events: [],
      meta_struct: {}
    }
    made.push(note)
    return work?.(span, note)
  })
}

function showOrder () {
  trace('shop.price', {
    service: 'shop-prices',
    resource: 'price of an order',
    meta: { city: 'Zürich, 東京, 🦉', empty: '' },
    metrics: { items: 3, share: 0.125, far: 2 ** 53 - 1, below: -7 }
  }, () => {
    trace('shop.lookup', {
      resource: 'lookup',
      type: 'shop',
      meta: { 'key with spaces': 'a value\nof two lines' }
    }, (span, note) => {
      note.meta_struct = { finding: { rule: 2, names: ['a', 'ü'], deep: { x: 1.5 } } }
      span.meta_struct = note.meta_struct
    })
  })
}

function showLinked () {
  // Ids of its own making leave the highest bit out; those of others need not.
  const far = tracer.extract('text_map', {
    'x-datadog-trace-id': '18364758544493064720',
    'x-datadog-parent-id': '18446744073709551614',
    'x-datadog-sampling-priority': '2',
    'x-datadog-tags': '_dd.p.tid=1234567890abcdef'
  })
  trace('shop.linked', { resource: 'linked', childOf: far }, (span, note) => {
    span.addLink({ context: far, attributes: { reason: 'grün' } })
    note.span_links.push({
      trace_id: '1234567890abcdeffedcba9876543210',
      span_id: 'fffffffffffffffe',
      attributes: { reason: 'grün' },
      flags: 1
    })
    const attributes = { where: 'Köln', ok: true, boxes: 12, weight: 2.5, names: ['a', 'ö'] }
    // Milliseconds by fours, whose nanoseconds a number here can hold.
    span.addEvent('restocked', attributes, 1790000000124)
    note.span_events.push({ name: 'restocked', time_unix_nano: '1790000000124000000', attributes })
    span.addEvent('counted', 1790000000128)
    note.span_events.push({ name: 'counted', time_unix_nano: '1790000000128000000', attributes: {} })
  })
}

function breakDown () {
  const fault = new RangeError('the till is empty: 売り切れ')
  trace('shop.broken', { resource: 'broken' }, (span, note) => {
    note.error = 1
    note.meta = {
      'error.type': fault.name, 'error.message': fault.message, 'error.stack': fault.stack
    }
    span.setTag('error', fault)
  })
}

const server = http.createServer((request, response) => {
  ({ '/orders/1': showOrder, '/linked': showLinked, '/broken': breakDown })[request.url]?.()
  response.statusCode = request.url === '/broken' ? 500 : 200
  response.end('done')
})

function get (port, path) {
  return new Promise((resolve, reject) => {
    http.get({ host: '127.0.0.1', port, path, agent: false }, (response) => {
      response.resume().on('end', resolve)
    }).on('error', reject)
  })
}

async function main () {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  for (const path of ['/orders/1', '/linked', '/broken', '/nowhere']) {
    await get(server.address().port, path)
  }
  await new Promise((resolve) => server.close(resolve))
  process.stdout.write(JSON.stringify(made) + '\n')
}

main()
