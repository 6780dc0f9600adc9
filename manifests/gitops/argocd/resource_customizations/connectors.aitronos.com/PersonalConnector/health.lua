-- Health of a PersonalConnector: what its condition Ready says, which sums up all others. Fails on nothing that is odd.
local function at(value, key)
  if type(value) == "table" then
    return value[key]
  end
end

local function health(status, message)
  return { status = status, message = message }
end

-- The operator leaves a suspended connector alone, its status included: ask this first.
if at(at(obj, "spec"), "suspend") == true then
  return health("Suspended", "spec.suspend is true: the operator changes and probes nothing")
end

local status = at(obj, "status")
if status == nil or at(status, "observedGeneration") ~= at(at(obj, "metadata"), "generation") then
  return health("Progressing", "the operator has not seen the latest spec yet")
end

local ready
local conditions = at(status, "conditions")
if type(conditions) == "table" then
  for _, condition in pairs(conditions) do
    if at(condition, "type") == "Ready" then
      ready = condition
    end
  end
end

local message = at(ready, "message")
if type(message) ~= "string" then
  message = "the operator has not reported yet"
end

if at(ready, "status") == "False" then
  return health("Degraded", message)
end
if at(ready, "status") ~= "True" then
  return health("Progressing", message)
end
if at(ready, "reason") == "Maintenance" then
  return health("Suspended", message)
end
return health("Healthy", message)
