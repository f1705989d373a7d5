// The state of a stream, put together from events and polls that come late, twice or out of order. No DOM.

const BUSY_SECONDS = 2; // between polls while a run is active: events can stay away
const IDLE_SECONDS = 15;
const LOST_POLLS = 4; // unanswered in a row, after which the server is taken for gone

/** Whether nothing more will be made. */
export function hasEnded(state) {
  return state.phase === "ended" || state.phase === "failed";
}

/** The later of what is known (null: nothing) and what came in; the same object when the message told nothing. */
export function merged(known, message) {
  const told = "prompts" in message ? { ...message, prompts_told: message.prompt_count } : message;
  if (!known) return told;
  if (told.session !== known.session) return told.begun > known.begun ? told : known;
  if (told.sequence < known.sequence) return known;
  // an event leaves the prompts out, so at the same number it tells nothing, and later the old ones stay
  if (told.sequence === known.sequence && !("prompts" in told && lacksPrompts(known))) return known;
  const { prompts, prompts_told } = known;
  return prompts === undefined ? told : { prompts, prompts_told, ...told };
}

/** Whether the whole state must be asked for at once: an event told of prompts that are not here yet. */
export function lacksPrompts(state) {
  return state.prompts_told !== state.prompt_count;
}

/** Seconds until the next poll. */
export function pollRest(state, seen, lost) {
  if (lost > 0) return Math.min(IDLE_SECONDS, BUSY_SECONDS * 2 ** (lost - 1));
  return state && !hasEnded(state) && seen ? BUSY_SECONDS : IDLE_SECONDS;
}

/** Whether so many polls in a row stayed unanswered that the server must be taken for gone. */
export function isGone(lost) {
  return lost >= LOST_POLLS;
}

/**
 * The stream to show in a node: the one that began last. Inside subgraphs the server knows the node by its path
 * ("12:7") and the page may know only the last step.
 */
export function streamOf(node, streams) {
  const own = streams.filter((each) => isNode(each.node, node));
  return own.reduce((latest, each) => (!latest || each.begun > latest.begun ? each : latest), null);
}

/** Whether the server's node id means the page's. */
export function isNode(told, node) {
  const [path, id] = [String(told), String(node)];
  return path === id || (!id.includes(":") && path.split(":").at(-1) === id);
}
