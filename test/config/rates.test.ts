/** Rates and their schedules, as they are written. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { rate } from '../../src/config/rate.ts';
import { openWindow, rateSchedule } from '../../src/config/rate-schedule.ts';

describe('a rate', () => {
  it('is bit/s with a unit, or 0', () => {
    for (const [text, bits] of [
      ['0', 0],
      ['500k', 500_000],
      ['200M', 200e6],
      ['1.5G', 1.5e9],
      ['0.001k', 1],
      ['999999.999k', 999_999_999],
    ] as const) {
      assert.equal(rate.parse(text), bits, text);
      assert.equal(rate.format(bits), text);
    }
    assert.equal(rate.parse('1500M'), 1.5e9);
    for (const text of ['', '200', '200m', '200 M', '-1M', '1e3M', '1.2345M', '1001G', 'none', '.5M', '00'])
      assert.equal(rate.parse(text), undefined, text);
  });

  it('comes back as what it was, whatever it was', () => {
    const written = fc
      .tuple(
        fc.integer({ min: 0, max: 999_999 }),
        fc.integer({ min: 0, max: 999 }),
        fc.constantFrom('k', 'M', 'G'),
      )
      .map(([whole, part, unit]) => `${whole}.${String(part).padStart(3, '0')}${unit}`);
    fc.assert(
      fc.property(written, (text) => {
        const bits = rate.parse(text);
        if (bits !== undefined)
          assert.equal(rate.parse(rate.format(bits)), bits, `${text}: ${rate.format(bits)}`);
      }),
    );
  });
});

describe('a schedule of rates', () => {
  /** @param day of November 2026, whose 2nd is a Monday */
  const rateAt = (text: string, day: number, time: string): number | null | undefined => {
    const [hour, minute] = time.split(':').map(Number);
    return openWindow(rateSchedule.parse(text)!, new Date(2026, 10, day, hour, minute, 30))?.rate;
  };
  const [friday, saturday, sunday, monday] = [6, 7, 8, 9];

  it('holds from the first minute of a window until before its last', () => {
    for (const [time, bits] of [
      ['07:59', undefined],
      ['08:00', 20e6],
      ['17:59', 20e6],
      ['18:00', undefined],
    ] as const)
      assert.equal(rateAt('08:00-18:00 20M', monday, time), bits, time);
    assert.equal(rateAt('00:00-24:00 none', sunday, '23:59'), null);
    assert.equal(rateAt('12:00-00:00 0', sunday, '23:59'), 0);
  });

  it('goes over midnight, and belongs to the day on which it begins', () => {
    const text = 'Fri 22:00-06:00 1M';
    for (const [day, time, bits] of [
      [friday, '05:59', undefined],
      [friday, '21:59', undefined],
      [friday, '22:00', 1e6],
      [saturday, '05:59', 1e6],
      [saturday, '06:00', undefined],
      [saturday, '22:00', undefined],
    ] as const)
      assert.equal(rateAt(text, day, time), bits, `${day} ${time}`);
    assert.equal(rateAt('22:00-06:00 1M', monday, '00:00'), 1e6);
  });

  it('has days of the week, over its end too, and the first window that is open counts', () => {
    const text = 'Sat-Mon 00:00-24:00 1M, 08:00-18:00 2M, 08:00-20:00 3M';
    assert.deepEqual(
      [friday, saturday, sunday, monday, 10].map((day) => rateAt(text, day, '09:00')),
      [2e6, 1e6, 1e6, 1e6, 2e6],
    );
    assert.equal(rateAt(text, friday, '19:00'), 3e6);
  });

  it('comes back as it was written, and is refused in every other form', () => {
    for (const text of ['Mon-Fri 08:00-18:00 20M', 'Sat 22:00-24:00 none, 01:30-01:31 0'])
      assert.equal(rateSchedule.format(rateSchedule.parse(text)!), text);
    for (const text of [
      '',
      '08:00-18:00',
      '8:00-18:00 1M',
      '08:00-18:60 1M',
      '08:00-24:01 1M',
      '24:00-08:00 1M',
      '08:00-08:00 1M',
      '00:00-00:00 1M',
      'Mo 08:00-18:00 1M',
      'mon 08:00-18:00 1M',
      '08:00-18:00 1M,',
      '08:00-18:00 1',
      '08:00 - 18:00 1M',
    ])
      assert.equal(rateSchedule.parse(text), undefined, text);
  });
});
