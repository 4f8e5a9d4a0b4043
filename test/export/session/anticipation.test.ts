import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { createConnection, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { Anticipation } from '../../../src/export/session/anticipation.ts';
import { descriptorOf } from '../../../src/system/descriptors/descriptor.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

describe('anticipation', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let ours: Socket;
  let client: Socket;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    const path = join(directory.path, 'sock');
    const server = createServer({ pauseOnConnect: true });
    server.listen(path);
    await once(server, 'listening');
    client = createConnection(path);
    [ours] = (await once(server, 'connection')) as [Socket];
    server.close();
  });

  afterEach(async () => {
    await directory.remove();
    ours.destroy();
    client.destroy();
  });

  const receive = (anticipation: Anticipation, into = Buffer.alloc(64)) =>
    anticipation.receive(descriptorOf(ours).fd, into);

  it('receives what has come', async () => {
    await new Promise((resolve) => client.write('request', resolve));
    const into = Buffer.alloc(64);
    assert.equal(receive(new Anticipation(), into), 7);
    assert.equal(into.toString('latin1', 0, 7), 'request');
  });

  it('tries less and less often while nothing comes, and each time again once something came', async () => {
    const anticipation = new Anticipation();
    let tries = 0;
    for (let call = 0; call < 5000; call++) {
      const before = performance.now();
      assert.equal(receive(anticipation), 0);
      if (performance.now() - before >= 0.05) tries += 1;
    }
    // 1 + 2 + 4 + ... calls are left out in between; the machine may stop us now and then on its own.
    assert.ok(tries < 50, `${tries} tries`);
    let calls = 0;
    await new Promise((resolve) => client.write('x', resolve));
    while (receive(anticipation) === 0) calls += 1;
    assert.ok(calls <= 4096, 'something is received in the end');
    await new Promise((resolve) => client.write('y', resolve));
    assert.equal(receive(anticipation), 1, 'and from then on at once');
  });

  it('leaves the end of the connection to the stream', async () => {
    client.end();
    await once(client, 'finish');
    assert.equal(receive(new Anticipation()), 0);
  });
});
