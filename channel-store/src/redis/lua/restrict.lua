-- restrict: changes what is forbidden to a user. Repeated, it has the same effect. Allowed when memory is full, because a user
-- must be shut out then, too, and a user has a bounded number of fields. Follows clock.lua, restrictions.lua.
--
-- KEYS  1 restrictions
-- ARGV  1 'block': 2 when it ends  3 reason
--         'unblock'
--         'before': 2 tokens made before this are revoked  3 when this is forgotten
--         'token': 2 name of a token  3 when this is forgotten  4 the most tokens
--       Times are milliseconds since 1970, or milliseconds from now on behind a '+'.
-- reply what is in force (see restrictions.lua) | { 'full' }: nothing was changed
local key, verb = KEYS[1], ARGV[1]
local call, now = redis.call, milliseconds()

local function time(text)
  local number = tonumber(text)
  return string.sub(text, 1, 1) == '+' and now + number or number
end

-- Without exponent, whatever its size.
local function written(number)
  return string.format('%.0f', number)
end

-- Fields whose time is over must not count, and must not keep the others from expiring.
local all, latest, tokens = call('HGETALL', key), 0, 0
for i = 1, #all, 2 do
  local field, first, second = all[i], in_two(all[i + 1])
  local ends = tonumber(field == 'block' and first or field == 'before' and second or all[i + 1])
  if ends <= now then
    call('HDEL', key, field)
  elseif not (verb == 'unblock' or verb == 'block') or field ~= 'block' then
    latest = math.max(latest, ends)
    if string.sub(field, 1, 1) == 't' then tokens = tokens + 1 end
  end
end

if verb == 'block' then
  local ends = time(ARGV[2])
  call('HSET', key, 'block', written(ends) .. '\n' .. ARGV[3])
  latest = math.max(latest, ends)
elseif verb == 'unblock' then
  call('HDEL', key, 'block')
elseif verb == 'before' then
  local before, forgotten = in_two(call('HGET', key, 'before'))
  before = math.max(tonumber(before or 0), time(ARGV[2]))
  forgotten = math.max(tonumber(forgotten or 0), time(ARGV[3]))
  call('HSET', key, 'before', written(before) .. '\n' .. written(forgotten))
  latest = math.max(latest, forgotten)
elseif verb == 'token' then
  local field = 't' .. ARGV[2]
  local forgotten = call('HGET', key, field)
  if not forgotten and tokens >= tonumber(ARGV[4]) then return { 'full' } end
  forgotten = math.max(tonumber(forgotten or 0), time(ARGV[3]))
  call('HSET', key, field, written(forgotten))
  latest = math.max(latest, forgotten)
end
call('EXPIREAT', key, written(math.ceil(latest / 1000)))
return in_force(key)
