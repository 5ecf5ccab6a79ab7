-- restrictions: what is forbidden to a user. It is part of every script that asks for it, and follows clock.lua.
--
-- One hash: 'block' -> milliseconds when it ends, reason: two lines
--           'before' -> tokens made before this are revoked, when this is forgotten: two lines of milliseconds
--           't' and the name of a token -> milliseconds when its revocation is forgotten
-- The hash expires with its last field. Until then each reader leaves out the fields whose time is over.
local function in_two(field)
  return string.match(field or '', '^(%d+)\n(.*)$')
end

local function lasts(time)
  return time and milliseconds() < tonumber(time)
end

-- The reply that refuses a login or claim, if it is forbidden. `issued`: when the token was made, in seconds; '' without a token.
local function forbidden(key, issued, token)
  local held = redis.call('HMGET', key, 'block', 'before', 't' .. token)
  local ends, reason = in_two(held[1])
  if lasts(ends) then return { 'blocked', ends, reason } end
  if issued == '' then return end
  local before, forgotten = in_two(held[2])
  local is_old = lasts(forgotten) and tonumber(issued) * 1000 < tonumber(before)
  if is_old or held[3] and lasts(held[3]) then return { 'revoked' } end
end

-- All that is in force: when the block ends or '', its reason, the time of 'before' or '', names of revoked tokens.
local function in_force(key)
  local all, found = redis.call('HGETALL', key), { '', '', '' }
  for i = 1, #all, 2 do
    local field, first, second = all[i], in_two(all[i + 1])
    if field == 'block' then
      if lasts(first) then found[1], found[2] = first, second end
    elseif field == 'before' then
      if lasts(second) then found[3] = first end
    elseif lasts(all[i + 1]) then
      found[#found + 1] = string.sub(field, 2)
    end
  end
  return found
end
