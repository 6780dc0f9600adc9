/** Makes a server's words fit to be shown: one line, no control or invisible formatting characters, at most `most` long. */
export function cleanText(text: unknown, most: number): string {
  const clean = String(text)
    .slice(0, most * 4)
    .replaceAll(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]+/gu, ' ')
    .trim();
  const characters = [...clean];
  return characters.length <= most ? clean : `${characters.slice(0, most - 1).join('')}…`;
}
