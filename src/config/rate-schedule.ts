/**
 * A rate that depends on the hour: windows of the week, in the local time of the host.
 *
 *     08:00-18:00 20M                          every day
 *     Mon-Fri 08:00-18:00 20M, Sat 08:00-12:00 50M, 22:00-06:00 none
 *
 * The first window that is open counts; while none is, the plain rate does. A window that ends before it
 * begins goes over midnight, and belongs to the day on which it begins.
 */
import { type Notation, orNone } from './notation.ts';
import { rate } from './rate.ts';

const DAYS: readonly string[] = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
const DAY = `(${DAYS.join('|')})`;
const TIME = String.raw`(\d{2}):(\d{2})`;
const WINDOW = new RegExp(String.raw`^(?:${DAY}(?:-${DAY})? +)?${TIME}-${TIME} +(\S+)$`);
const DAY_MINUTES = 24 * 60;

export interface RateWindow {
  /** The first and the last day, as Date counts them; over the end of the week where the last is less. */
  readonly days: readonly [number, number] | null;
  /** Minutes of the day. */
  readonly from: number;
  /** 1 to 1440, not `from`; less than `from`: on the next day. */
  readonly to: number;
  /** bit/s; null: no cap. */
  readonly rate: number | null;
}

export type RateSchedule = readonly RateWindow[];

export const rateSchedule: Notation<RateSchedule> = {
  parse: (text) => {
    const windows = text.split(',').map((each) => parseWindow(each.trim()));
    return windows.every((each) => each !== undefined) ? windows : undefined;
  },
  format: (windows) => windows.map(formatWindow).join(', '),
  allowed: 'a list of [DAY[-DAY]] HH:MM-HH:MM RATE, such as Mon-Fri 08:00-18:00 20M, separated by commas',
};

/** The window that is open at a time, by the local clock. */
export function openWindow(windows: RateSchedule, now: Date): RateWindow | undefined {
  const today = now.getDay();
  const minute = now.getHours() * 60 + now.getMinutes();
  return windows.find(({ days, from, to }) => {
    const begunToday = isAmong(days, today) && minute >= from && (minute < to || to < from);
    const begunYesterday = to < from && minute < to && isAmong(days, (today + 6) % 7);
    return begunToday || begunYesterday;
  });
}

export function formatWindow({ days, from, to, rate: bits }: RateWindow): string {
  const [first, last] = days ?? [0, 0];
  const which = days === null ? '' : `${DAYS[first]}${last === first ? '' : `-${DAYS[last]}`} `;
  return `${which}${formatTime(from)}-${formatTime(to)} ${orNone(rate).format(bits)}`;
}

function parseWindow(text: string): RateWindow | undefined {
  const [, first, last = first, fromHour, fromMinute, toHour, toMinute, value] = WINDOW.exec(text) ?? [];
  const from = minuteOf(fromHour, fromMinute);
  const to = minuteOf(toHour, toMinute);
  const bits = value === undefined ? undefined : orNone(rate).parse(value);
  if (from === undefined || to === undefined || bits === undefined) return undefined;
  // 24:00 is an end alone, and 00:00 as an end is the same.
  if (from === DAY_MINUTES || from === to) return undefined;
  const days = first === undefined ? null : ([DAYS.indexOf(first), DAYS.indexOf(last!)] as const);
  return { days, from, to: to === 0 ? DAY_MINUTES : to, rate: bits };
}

function minuteOf(hour?: string, minute?: string): number | undefined {
  const minutes = Number(hour) * 60 + Number(minute);
  return Number(minute) < 60 && minutes <= DAY_MINUTES ? minutes : undefined;
}

function isAmong(days: RateWindow['days'], day: number): boolean {
  if (days === null) return true;
  const [first, last] = days;
  return first <= last ? first <= day && day <= last : day >= first || day <= last;
}

function formatTime(minutes: number): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  return `${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
}
