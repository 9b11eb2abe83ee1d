// A contender by the etcd3 package: contend.js lock|election ENDPOINTS NAME TURNS [stay].
//
// Its lock is a single key that is created or not, so a contender asks again until it gets it: exclusive, not fair. Its
// election puts election/ before the name it is given and is Go's otherwise, so NAME has to begin with that.
'use strict';

const { Etcd3 } = require('etcd3');

const TTL_SECONDS = 3;
const [way, endpoints, name, turnsText, stay] = process.argv.slice(2);
const turns = Number(turnsText);
const client = new Etcd3({ hosts: endpoints.split(',').map((endpoint) => `http://${endpoint}`) });
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
// On Linux this is the clock that all processes of the machine share.
const now = () => process.hrtime.bigint();

async function createdAt(key) {
  const got = await client.get(key).exec();
  return got.kvs[0].create_revision;
}

async function lock() {
  for (;;) {
    const held = client.lock(name).ttl(TTL_SECONDS);
    try {
      await held.acquire();
    } catch (error) {
      if (error.constructor.name !== 'EtcdLockFailedError') throw error;
      await pause(5);
      continue;
    }
    return { token: await createdAt(name), release: () => held.release() };
  }
}

async function campaign() {
  const campaign = client.election(name.replace(/^election\//, ''), TTL_SECONDS).campaign('node');
  await campaign.wait();
  return { token: await createdAt(await campaign.getCampaignKey()), release: () => campaign.resign() };
}

async function main() {
  for (let turn = 0; turn < turns || stay; turn++) {
    const hold = await (way === 'lock' ? lock() : campaign());
    console.log(`enter ${hold.token} ${now()}`);
    if (turn === turns) await new Promise(() => setInterval(() => {}, 1000));
    await pause(2);
    console.log(`leave ${hold.token} ${now()}`);
    await hold.release();
    // The lock is not fair: whoever asks again at once has it again.
    await pause(10);
  }
  client.close();
}

main();
