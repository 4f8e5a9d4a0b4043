/** Numbers as people read them. */

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `4.2 GiB`, `512 B`: three digits, no more. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** `35 s`, `4:05 min`, `2:10:00 h`. */
export function formatSeconds(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const two = (value: number): string => String(value).padStart(2, '0');
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)} min`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)} h`;
}

/** `29.8 Mbit/s`, `940 kbit/s`: three digits, no more; of bits a second. */
export function formatRate(bits: number): string {
  let value = bits;
  let unit = '';
  for (const larger of ['k', 'M', 'G']) {
    if (value < 999.5) break;
    value /= 1000;
    unit = larger;
  }
  return `${value.toFixed(unit === '' || value >= 99.95 ? 0 : 1)} ${unit}bit/s`;
}

/** `45.2 %`; 100 % only of the whole. An empty disk is complete. */
export function formatShare(part: number, whole: number): string {
  if (part >= whole) return '100 %';
  return `${Math.min((part / whole) * 100, 99.9).toFixed(1)} %`;
}

/** `00:12:40`, as a clock that runs down: hours, minutes, seconds. */
export function formatClock(seconds: number): string {
  const whole = Math.round(seconds);
  const two = (value: number): string => String(value).padStart(2, '0');
  return [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60].map(two).join(':');
}
