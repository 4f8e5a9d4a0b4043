/** What a lease holder reads in the background, and how a read that a guest waits for passes it. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import { Command, CommandFlag, Errno } from '../../../src/nbd/constants.ts';
import { Feature } from '../../../src/nbd/handshake/features.ts';
import { RawClient, type RawReply } from '../../lab/nbd/raw-client.ts';
import { serveTarget, type TestTarget } from '../../lab/nbd/serving.ts';

const CHUNK = 64 * 1024;
const COUNT = 128;
const lease = '00000000-0000-4000-8000-00000000000a';
const attach = { lease, uuid: null, generation: 0, name: 'd' };

describe('reads of the background', () => {
  let target: TestTarget;
  let content: Buffer;
  let client: RawClient;

  beforeEach(async () => {
    target = await serveTarget({ sizeBytes: 2 * COUNT * CHUNK });
    content = randomBytes(2 * COUNT * CHUNK);
    const file = await open(target.image, 'r+');
    await file.write(content, 0, content.length, 0);
    await file.close();
  });

  afterEach(async () => {
    client.break();
    await target.remove();
  });

  /** Many in the background, and behind them one on demand, from a client that then reads its answers. */
  async function ask(flags: number): Promise<{ replies: RawReply[]; demand: bigint }> {
    client.socket.pause();
    const background: bigint[] = [];
    for (let at = 0; at < COUNT; at++)
      background.push(client.send({ type: Command.READ, offset: at * CHUNK, length: CHUNK, flags }));
    const demand = client.send({ type: Command.READ, offset: COUNT * CHUNK, length: 4096 });
    // The export has seen it all by then, and fills what there is of buffers.
    await new Promise((resolve) => setTimeout(resolve, 200));
    client.socket.resume();
    const replies: RawReply[] = [];
    while (replies.length < COUNT + 1) replies.push(await client.reply());
    for (const reply of replies) {
      assert.equal(reply.errno, 0);
      const index = background.indexOf(reply.cookie);
      const offset = index === -1 ? COUNT * CHUNK : index * CHUNK;
      assert.ok(reply.data.equals(content.subarray(offset, offset + reply.data.length)));
    }
    return { replies, demand };
  }

  it('are passed by one on demand, and all answered', async () => {
    client = await RawClient.open(target.socket, 'd', { attach, features: Feature.BACKGROUND });
    const { replies, demand } = await ask(CommandFlag.XNBD_BACKGROUND);
    const place = replies.findIndex(({ cookie }) => cookie === demand);
    // What the socket holds cannot be passed.
    assert.ok(place < 8, `the one on demand is answered after ${place} of the background`);
  });

  it('are nothing special without the mark', async () => {
    client = await RawClient.open(target.socket, 'd', { attach, features: Feature.BACKGROUND });
    const { replies, demand } = await ask(0);
    assert.equal(replies.at(-1)?.cookie, demand, 'a disk in memory answers in order');
  });

  it('are refused where the mark was not agreed, or on another command', async () => {
    client = await RawClient.open(target.socket, 'd', { attach });
    const flags = CommandFlag.XNBD_BACKGROUND;
    const read = await client.ask({ type: Command.READ, offset: 0, length: 512, flags });
    assert.equal(read.errno, Errno.EINVAL);
    client.break();
    client = await RawClient.open(target.socket, 'd', { attach, features: Feature.BACKGROUND });
    assert.equal(await client.command(Command.FLUSH, 0, 0, flags), Errno.EINVAL);
    assert.equal((await client.read(0, 512)).errno, 0);
  });

  it('end with the connection', async () => {
    client = await RawClient.open(target.socket, 'd', { attach, features: Feature.BACKGROUND });
    client.socket.pause();
    for (let at = 0; at < COUNT; at++)
      client.send({
        type: Command.READ,
        offset: at * CHUNK,
        length: CHUNK,
        flags: CommandFlag.XNBD_BACKGROUND,
      });
    await new Promise((resolve) => setTimeout(resolve, 50));
    client.break();
    const other = await RawClient.open(target.socket, 'd', { attach, features: Feature.BACKGROUND });
    assert.ok((await other.read(0, CHUNK)).data.equals(content.subarray(0, CHUNK)));
    other.break();
  });

  it('are agreed by a lease holder only', async () => {
    await assert.rejects(
      RawClient.open(target.socket, 'd', { features: Feature.BACKGROUND }).then((other) => {
        client = other;
      }),
      /not to be had/,
    );
    client = await RawClient.open(target.socket, 'd');
  });
});
