-- user: the entries of one user, one for each login. It is part of every script about them, and follows clock.lua. Scripts that
-- call `refusal` have restrictions.lua, too.
--
-- KEYS  1 entries (hash: session -> login rank, incarnation, state, proof: four lines)
--       2 the last login rank that was given
-- ARGV  1 seconds after which both are forgotten
-- The state is 0 live, 1 superseded (its connector has to close the socket) or 2 lingering (its client is gone, and the
-- session stays a member for a while). The proof is a hash of the client's secret, or empty.
local call, format = redis.call, string.format
local entries, last_rank = KEYS[1], KEYS[2]

local function parsed(entry)
  return string.match(entry, '^(%d+)\n([^\n]*)\n([012])\n(%x*)$')
end

local function write(session, rank, incarnation, state, proof)
  call('HSET', entries, session, table.concat({ rank, incarnation, state, proof }, '\n'))
end

-- The entries of all other sessions.
local function others(session)
  local found, all = {}, call('HGETALL', entries)
  for i = 1, #all, 2 do
    if all[i] ~= session then
      local rank, incarnation, state, proof = parsed(all[i + 1])
      found[#found + 1] = { session = all[i], rank = rank, incarnation = incarnation, state = state, proof = proof }
    end
  end
  return found
end

-- The last rank of a user without entries is remembered only as long as tombstones last. After that no copy of a login or
-- claim can arrive any more, and the clock alone makes new ranks higher.
local function forget_if_gone(seconds)
  if call('EXISTS', entries) == 0 then call('EXPIRE', last_rank, seconds) end
end

-- Removes the entries of a dead incarnation. Its tombstone is set first: what may still arrive of it is refused.
local function reap(tombstone, seconds, incarnation)
  local removed = 0
  call('SET', tombstone, '1', 'EX', seconds)
  for _, entry in ipairs(others()) do
    if entry.incarnation == incarnation then removed = removed + call('HDEL', entries, entry.session) end
  end
  forget_if_gone(seconds)
  return removed
end

local function remember()
  -- Without entries the last rank is forgotten earlier: see forget_if_gone.
  if call('EXPIRE', entries, ARGV[1]) == 1 then call('EXPIRE', last_rank, ARGV[1]) end
end

-- Why a login or claim is refused, if it is. The last three are for `forbidden` in restrictions.lua.
local function refusal(dead, closed, deadline, restrictions, issued, token)
  if call('EXISTS', dead) == 1 then return { 'dead' } end
  local now = milliseconds()
  if now > tonumber(deadline) then return { 'late', now } end
  if call('EXISTS', closed) == 1 then return { 'closed' } end
  return forbidden(restrictions, issued, token)
end
