-- declare_dead: writes death into a lease that has not been renewed since it was seen, and is past its end. One that is
-- missing is lost data, no death: it comes back for a full time, so that its owner takes it over or it ends.
-- Allowed out of memory. Follows lease.lua.
--
-- ARGV  2 the end that was seen, milliseconds  3 a full time, milliseconds
-- reply 'dead' | 'alive' | 'provisional'
if state == 'dead' then return 'dead' end
local now = milliseconds()
if not state then
  write('provisional', now + ARGV[3])
  return 'provisional'
end
if tonumber(ends) ~= tonumber(ARGV[2]) or now <= tonumber(ends) then return 'alive' end
write('dead', ends)
return 'dead'
