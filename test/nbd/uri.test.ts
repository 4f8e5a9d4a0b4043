import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { formatNbdUri, type NbdAddress, parseNbdUri } from '../../src/nbd/uri.ts';

describe('NBD URI', () => {
  it('names a host, a port and an export', () => {
    assert.deepEqual(parseNbdUri('nbd://a.example/vm1'), {
      kind: 'tcp',
      host: 'a.example',
      port: 10809,
      name: 'vm1',
    });
    assert.deepEqual(parseNbdUri('nbd://[::1]:99/'), { kind: 'tcp', host: '::1', port: 99, name: '' });
    assert.deepEqual(parseNbdUri('nbd://h/a%20b/c'), { kind: 'tcp', host: 'h', port: 10809, name: 'a b/c' });
  });

  it('asks for TLS', () => {
    const address = { kind: 'tls', host: 'a.example', port: 10809, name: 'vm1' };
    assert.deepEqual(parseNbdUri('nbds://a.example/vm1'), address);
    assert.equal(formatNbdUri({ kind: 'tls', host: '::1', port: 9, name: 'd' }), 'nbds://[::1]:9/d');
  });

  it('names a unix socket', () => {
    const address = { kind: 'unix', path: '/run/x nbd.sock', name: 'd' };
    assert.deepEqual(parseNbdUri('nbd+unix:///d?socket=/run/x%20nbd.sock'), address);
    assert.equal(formatNbdUri({ kind: 'unix', path: '/a+b', name: 'd' }), 'nbd+unix:///d?socket=/a%2Bb');
    assert.deepEqual(parseNbdUri('nbd+unix:///d?socket=/a+b'), { kind: 'unix', path: '/a+b', name: 'd' });
  });

  it('says what is wrong, and the way out', () => {
    for (const [uri, why] of [
      ['vm1', 'is no URI'],
      ['http://a/b', "has the scheme 'http'"],
      ['nbds+unix:///b?socket=/x', 'asks for TLS on a unix socket'],
      ['nbds://a/b?tls-certificates=/x', 'has the parameters'],
      ['nbds://alice@a/b', 'has a user name'],
      ['nbd:///b', 'names no host'],
      ['nbd://a:0/b', 'has the port 0'],
      ['nbd://u@a/b', 'has a user name'],
      ['nbd://a/b?socket=/x', 'has the parameters'],
      ['nbd://a/b#c', "has a '#'"],
      ['nbd://a/%zz', "has a '%'"],
      ['nbd+unix:///d', 'names no socket'],
      ['nbd+unix://d?socket=/x', "names the host 'd'"],
      ['nbd+unix:///d?socket=/x&tls=1', "other parameters than 'socket'"],
    ] as const) {
      assert.throws(
        () => parseNbdUri(uri),
        (error: Error) => error.message.includes(why) && /use nbd:\/\/HOST/.test(error.message),
        uri,
      );
    }
  });

  it('is the same address after format and parse', () => {
    // '.' and '..' mean a place in a path, however they are written.
    const name = fc
      .string({ unit: 'binary', maxLength: 40 })
      .filter((text) => text.isWellFormed() && text !== '.' && text !== '..');
    const path = name.map((text) => `/${text.replaceAll('\0', '')}`);
    const port = fc.integer({ min: 1, max: 65535 });
    const host = fc.constantFrom('a.example', '10.0.0.1', '::1', 'fe80::2');
    const address: fc.Arbitrary<NbdAddress> = fc.oneof(
      fc.record({ kind: fc.constantFrom('tcp', 'tls'), host, port, name }, { noNullPrototype: true }),
      fc.record({ kind: fc.constant('unix'), path, name }, { noNullPrototype: true }),
    );
    fc.assert(fc.property(address, (given) => assert.deepEqual(parseNbdUri(formatNbdUri(given)), given)));
  });
});
