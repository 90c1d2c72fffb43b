// The caller's key, where the server asks for one: kept in this tab's memory alone.

const place = document.getElementById("key-label");
const input = document.getElementById("key");

/** The same as fetch, with the key that was typed; a 401 shows the field for it. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(input.value ? { authorization: `Bearer ${input.value}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) place.hidden = false;
  return answer;
}
