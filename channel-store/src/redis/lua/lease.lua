-- lease: the lease of one incarnation. It is part of every script about a lease, and follows clock.lua.
--
-- KEYS  1 lease (hash: state live, provisional or dead; beat: grows with each renewal; length: milliseconds; ended: its owner has
--         ended, and has renewed it for the last time)
--       2 index (hash: 'c:' and a channel, or 'u:' and a user -> nonce)
-- ARGV  1 seconds after which both are forgotten
-- No clock ends a lease. A chat that watches it waits until the beat has not changed for the length, measured by its own clock.
local call, format = redis.call, string.format
local lease, index = KEYS[1], KEYS[2]
local held = call('HMGET', lease, 'state', 'beat', 'length')
local state, beat, length = held[1], held[2], held[3]

local function remember()
  call('EXPIRE', lease, ARGV[1])
  call('EXPIRE', index, ARGV[1])
end

-- Writes the lease with another beat. The beat is higher than the last one even if the server's clock was set back, and no
-- earlier one comes again if the lease was lost in between.
local function write(new, milliseconds)
  state, length = new, milliseconds
  beat = format('%d', math.max(tonumber(beat or 0) + 1, microseconds()))
  call('HSET', lease, 'state', state, 'beat', beat, 'length', length)
  remember()
end

local function write_death()
  call('HSET', lease, 'state', 'dead')
  remember()
end
