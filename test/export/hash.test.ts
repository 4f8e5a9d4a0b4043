/**
 * HASH (docs/protocol.md): digests instead of data, for the lease holder, while others are served as ever.
 */
import { strict as assert } from 'node:assert';
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { Digests } from '../../src/export/digests.ts';
import { Command, Errno, HASH_LENGTH, HASH_MAX } from '../../src/nbd/constants.ts';
import { RawClient, type RawReply } from '../lab/nbd/raw-client.ts';
import { serveTarget, type TestTarget } from '../lab/nbd/serving.ts';

const { XNBD_HASH, XNBD_TAKEOVER } = Command;
const SIZE = 3 * HASH_MAX;

const sha256 = (data: Buffer) => createHash('sha256').update(data).digest();

describe('HASH', () => {
  let target: TestTarget;
  let content: Buffer;
  const clients: RawClient[] = [];

  before(async () => {
    target = await serveTarget({ sizeBytes: SIZE });
    content = randomBytes(SIZE);
    await writeFile(target.image, content, { flag: 'r+' });
  });
  after(() => target.remove());
  afterEach(async () => {
    for (const client of clients.splice(0)) await client.disconnect();
  });

  const open = async (options: Parameters<typeof RawClient.open>[2] = {}) => {
    const client = await RawClient.open(target.socket, 'd', options);
    clients.push(client);
    return client;
  };
  const lease = randomUUID();
  const attach = { lease, uuid: null, generation: 0, name: 'd' };
  const hash = (client: RawClient, offset: number, length: number) =>
    client.ask({ type: XNBD_HASH, offset, length });

  for (const extended of [false, true]) {
    it(`gives the SHA-256 of any range, with ${extended ? 'extended headers' : 'structured replies'}`, async () => {
      const client = await open({ extended, attach });
      for (const [offset, length] of [
        [0, 1],
        [4096, 4096],
        [12_345, 67_890],
        [SIZE - HASH_MAX, HASH_MAX],
      ] as const) {
        const { errno, data } = await hash(client, offset, length);
        assert.equal(errno, 0);
        assert.equal(data.length, HASH_LENGTH);
        assert.deepEqual(data, sha256(content.subarray(offset, offset + length)));
      }
    });

    it(`refuses a range that is empty, too long or past the end, with ${extended ? 'extended headers' : 'structured replies'}`, async () => {
      const client = await open({ extended, attach });
      assert.equal((await hash(client, 0, 0)).errno, Errno.EINVAL);
      assert.equal((await hash(client, 0, HASH_MAX + 1)).errno, Errno.EOVERFLOW);
      assert.equal((await hash(client, SIZE - 1, 2)).errno, Errno.EINVAL);
      assert.equal(
        (await client.ask({ type: XNBD_HASH, offset: 0, length: 1, flags: 1 })).errno,
        Errno.EINVAL,
      );
      assert.equal((await hash(client, 0, 1)).errno, 0, 'the connection lives on');
    });
  }

  it('is for the lease holder alone, with structured replies', async () => {
    const guest = await open();
    assert.equal((await hash(guest, 0, 4096)).errno, Errno.EINVAL);
    const simple = await open({ structured: false, attach });
    assert.equal((await hash(simple, 0, 4096)).errno, Errno.EINVAL);
  });

  it('is answered while fenced, and many at once', async () => {
    const client = await open({ attach });
    assert.equal(await client.command(XNBD_TAKEOVER), 0);
    const asked = new Map<bigint, number>();
    for (let at = 0; at < SIZE; at += 65_536)
      asked.set(client.send({ type: XNBD_HASH, offset: at, length: 65_536 }), at);
    const replies: RawReply[] = [];
    while (replies.length < asked.size) replies.push(await client.reply());
    for (const { cookie, errno, data } of replies) {
      const at = asked.get(cookie)!;
      assert.equal(errno, 0);
      assert.deepEqual(data, sha256(content.subarray(at, at + 65_536)));
    }
    assert.equal(await client.command(Command.XNBD_GIVE_BACK), 0);
  });

  it('is passed by a READ, however many are under way', async () => {
    const client = await open({ attach });
    const many = 300;
    for (let at = 0; at < many; at++) client.send({ type: XNBD_HASH, offset: 0, length: HASH_MAX });
    const read = client.send({ type: Command.READ, offset: 4096, length: 4096 });
    let before = 0;
    while ((await client.reply()).cookie !== read) before += 1;
    assert.ok(before < many / 4, `${before} of ${many} digests came first`);
    for (let at = before; at < many; at++) await client.reply();
  });
});

describe('digests', () => {
  it('are worked out two at a time, in order; who has left is not served any more', async () => {
    const begun: number[] = [];
    const open: (() => void)[] = [];
    const digests = new Digests((into, offset, done) => {
      begun.push(offset);
      into.fill(offset);
      open.push(() => done.complete(0));
    });
    const done: number[] = [];
    const gone = {};
    const ask = (offset: number, owner: object | null) =>
      digests.digest(
        Buffer.alloc(HASH_LENGTH),
        { offset, length: 1, complete: () => done.push(offset) },
        owner,
      );
    ask(1, gone);
    ask(2, null);
    ask(3, gone);
    ask(4, null);
    assert.deepEqual(begun, [1, 2]);
    digests.forget(gone);
    while (done.length < 3) {
      for (const finish of open.splice(0)) finish();
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    assert.deepEqual(begun, [1, 2, 4]);
    assert.deepEqual(done.sort(), [1, 2, 4], 'what has begun is completed');
  });

  it('pass on what reading failed with', async () => {
    const digests = new Digests((_into, _offset, done) => done.complete(Errno.EIO));
    const errno = await new Promise<number>((resolve) =>
      digests.digest(Buffer.alloc(HASH_LENGTH), { offset: 0, length: 1, complete: resolve }),
    );
    assert.equal(errno, Errno.EIO);
  });
});
