-- publish: append one publication to a channel's log and fan it out, or answer a repeated idempotency key.
-- Without flags: Redis itself refuses this on a replica (READONLY), on a primary out of memory (OOM) or short of
-- replicas (NOREPLICAS), before anything is written or fanned out. Follows epoch.lua, append.lua.
--
-- ARGV  6 data (route, sender, body: opaque here)  7 session that must be a member, or ''
--       8 idempotency key or '' (user NUL key: keys are the user's own)  9 seconds a key is remembered, at least
-- reply { 'new', epoch, offset, feeds reached } | { 'dup', epoch, offset, 0, milliseconds } | { 'reused' } | { 'nomember' }
local data, session, key = ARGV[6], ARGV[7], ARGV[8]

-- Idempotency: one hash per window of time, so a key is remembered for one to two windows. Redis's own clock.
local memory, window
if key ~= '' then
  window = math.floor(call('TIME')[1] / ARGV[9])
  memory = KEYS[3 + window % 2]
  local was = generation and (call('HGET', memory, key) or call('HGET', KEYS[4 - window % 2], key))
  if was then
    -- While it is held, the first publication itself tells whether this is the same one again.
    local held, offset = call('XRANGE', log, was, was)[1], tonumber(was)
    if held and held[2][2] ~= data then return { 'reused' } end
    local e = epoch
    for id, start in string.gmatch(call('HGET', meta, 't'), '(%w+)@(%d+)') do
      if tonumber(start) <= offset then e = id end
    end
    return { 'dup', e, offset, 0, held and string.match(held[1], '%d+$') or ARGV[5] }
  end
end

-- After the key: who has left since is still told what became of the first try.
if session ~= '' and call('HEXISTS', KEYS[6], session) == 0 then return { 'nomember' } end

local reached = append(data)
if memory then
  call('HSET', memory, key, format('%d', last))
  if tonumber(m[5]) ~= window then
    call('EXPIREAT', memory, format('%d', (window + 2) * ARGV[9]))
    call('HSET', meta, 'w', format('%d', window))
  end
end
return { 'new', epoch, last, reached }
