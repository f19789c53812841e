// Talking to the server: json by fetch, the CSRF value with every write, one place for what went wrong.

let csrf = "";

export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

/**
 * Trade the token in the fragment (if there is one) for a cookie, take it out of the address, learn the CSRF value. Where
 * no answer comes the token stays in the address, so that a reload tries again. `check` may refuse what the server says.
 */
export async function signIn(base = "", ms = 0, check = () => {}) {
  const token = new URLSearchParams(window.location.hash.slice(1)).get("t");
  if (token) {
    const forget = () => window.history.replaceState(null, "", window.location.pathname + window.location.search);
    try {
      await send(`${base}/api/session`, { token }, ms);
    } catch (error) {
      if (error instanceof Refused && error.status < 500) forget();
      throw error;
    }
    forget();
  }
  const session = await get(`${base}/api/session`, null, ms);
  check(session);
  csrf = session.csrf;
}

const within = (ms) => (ms ? { signal: AbortSignal.timeout(ms) } : {});

/** `ms`: how long to wait for an answer at most. */
export async function get(path, query, ms) {
  const address = query && [...query.keys()].length ? `${path}?${query}` : path;
  return read(await fetch(address, { credentials: "same-origin", ...within(ms) }));
}

export async function send(path, body, ms) {
  return read(await fetch(path, {
    method: "POST",
    credentials: "same-origin",
    headers: { "content-type": "application/json", "x-fovea-csrf": csrf },
    body: JSON.stringify(body),
    ...within(ms),
  }));
}

/** Keep what the server answers as a file. */
export async function keep(response, name) {
  const address = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

export async function file(path, body) {
  const response = body === undefined ? await fetch(path) : await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-fovea-csrf": csrf },
    body: JSON.stringify(body),
  });
  if (!response.ok) await read(response);
  return response;
}

async function read(response) {
  if (response.status === 204) return null;
  let answer = null;
  try { answer = await response.json(); } catch { /* said below */ }
  if (!response.ok || answer === null) throw new Refused(response.status, answer?.error ?? `the server answered ${response.status} ${response.statusText}`);
  return answer;
}
