'use strict'

// A small shop's store room under dd-trace: databases, Redis and queues, and nothing it says.
//
// The servers are those of tests/corpus/servers.py. Everything a span of this program may hide is
// one of the secrets below.

// One request for everything.
const tracer = require('dd-trace').init({ flushInterval: 60000 })
const amqplib = require('amqplib')
const IoRedis = require('ioredis')
const mysql = require('mysql2/promise')
const pg = require('pg')
const redis = require('redis')

const host = '127.0.0.1'
const name = 'shop'

const secret = 'hunter2-secret'
const card = '4111111111111111'

const port = (server) => Number(process.env[`SHOP_${server}_PORT`])

async function usePostgres () {
  const client = new pg.Client({ host, port: port('POSTGRES'), user: name, database: name })
  await client.connect()
  await client.query('CREATE TABLE "node orders" (id serial, note text)')
  await client.query(`INSERT INTO "node orders" (note) VALUES ('${secret}'), ($$it's ${secret}$$)`)
  await client.query({ name: 'by-note', text: 'SELECT id FROM "node orders" WHERE note = $1', values: [secret] })
  await client.query(`SELEC '${secret}'`).catch(() => {})
  await client.end()
}

async function useMysql () {
  const place = { host, port: port('MYSQL'), user: name, password: name, database: name }
  const connection = await mysql.createConnection(place)
  await connection.query('CREATE TABLE `node lines` (id INT, price DOUBLE, note TEXT)')
  await connection.execute('INSERT INTO `node lines` VALUES (?, ?, ?)', [1, 2.5e3, secret])
  await connection.query(`SELECT id FROM \`node lines\` WHERE note LIKE "%${secret}%" AND price > 1.5`)
  await connection.end()
}

async function useRedis () {
  const client = redis.createClient({ socket: { host, port: port('REDIS') } })
  await client.connect()
  await client.set('node:1', secret, { EX: 60 })
  await client.get('node:1')
  await client.hSet('node:2', { name: secret, card })
  await client.multi().incr('node:visits').lPush('node:log', [secret, 'second line\nof it']).exec()
  await client.sendCommand(['AUTH', name, secret]).catch(() => {})
  await client.close()
}

async function useIoRedis () {
  const client = new IoRedis({ host, port: port('REDIS') })
  await client.set('io:1', secret, 'EX', 60)
  await client.mget('io:1', 'nobody')
  await client.pipeline().hset('io:2', 'card', card).zadd('io:3', 1.5, secret).exec()
  await client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, 'io:4', secret)
  await client.quit()
}

async function useAmqp () {
  const connection = await amqplib.connect(`amqp://guest:guest@${host}:${port('AMQP')}`)
  const channel = await connection.createChannel()
  const { queue } = await channel.assertQueue('node-parcels', { durable: false })
  channel.sendToQueue(queue, Buffer.from(secret), { headers: { to: secret } })
  await new Promise((resolve) => channel.consume(queue, (message) => {
    channel.ack(message)
    resolve()
  }))
  await channel.close()
  await connection.close()
}

async function main () {
  for (const use of [usePostgres, useMysql, useRedis, useIoRedis, useAmqp]) {
    await tracer.trace('store.visit', { resource: use.name }, use)
  }
  process.stdout.write('[]\n')
}

main()
